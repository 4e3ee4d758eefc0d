import hashlib

from LeFusion.runtime.hashing import sha256_of_file


def test_the_published_digest_of_abc_and_files_of_several_blocks(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")  # FIPS 180-4
    assert sha256_of_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    content = bytes(range(256)) * 5000
    path.write_bytes(content)
    assert sha256_of_file(path) == hashlib.sha256(content).hexdigest()
