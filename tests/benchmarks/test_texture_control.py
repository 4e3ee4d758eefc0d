"""Which pairs of images of a case are in order, by hand."""

from texture_control import in_order, number_of


def row(case, number, bin_asked, obtained):
    shares = ["0"] * 4
    shares[bin_asked] = "1"
    return {
        "case": case,
        "type": str(number),
        "requested_histogram": " ".join(shares),
        "lesion_mean": str(obtained),
    }


def test_pairs_are_ordered_as_asked_or_as_their_types():
    rows = [row("A", 1, 0, -600), row("A", 2, 3, -100), row("A", 3, 2, -200)]
    assert in_order(rows) == "3 of 3 (100.0%)"
    assert in_order(rows, number_of) == "2 of 3 (66.7%)"
    rows += [row("B", 1, 1, -300), row("B", 2, 1, -400)]  # the same was asked for: no order
    assert in_order(rows) == "3 of 3 (100.0%)"
    assert in_order(rows, number_of) == "2 of 4 (50.0%)"
    assert in_order(rows[:1]) == ""
