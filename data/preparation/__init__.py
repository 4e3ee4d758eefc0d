"""What the scripts that prepare training data from its sources share."""
