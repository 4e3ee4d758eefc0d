"""The four calls of the client lefusion-slicer, as it makes them; sessions are apart."""

import io
import time

import numpy as np
import pytest


@pytest.fixture
def crop(pack):
    """-> crop(seed): what the client uploads, and its array (k, j, i)."""

    def make(seed=0, **changed):
        data = np.random.default_rng(seed).integers(-1000, 400, (8, 12, 10)).astype(np.int16)
        arrays = {"data": data, "histogram": 2, "boxes_numpy": [3, 11, 20, 32, 40, 50]} | changed
        return pack(**{name: array for name, array in arrays.items() if array is not None}), data

    return make


def upload(client, name, content, prefix=""):
    return client.post(f"{prefix}/upload", files={"file": (name, content)})


def run(client, *names, prefix="", **fields):
    form = {"jump_length": 1, "jump_n_sample": 1, "batch_size": 2} | fields
    return client.post(f"{prefix}/run_script", data={"input": list(names)} | form)


def download(client, path, prefix=""):
    return client.request("GET", f"{prefix}/download_file", data={"output": path})


def arrays_of(content):
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def test_a_session(serving, engine, crop):
    (first, data), (second, other) = crop(0), crop(1, histogram=3)
    with serving(slicer=True) as client:
        del client.headers["authorization"]
        for number, content in enumerate((first, second)):
            assert upload(client, f"img_data{number}.npz", content).status_code == 200
        answer = run(client, "img_data0.npz", "img_data1.npz")
        assert answer.status_code == 200 and answer.text.startswith("Success")
        for number, array in enumerate((data, other)):
            result = download(client, f"data/out/img_data{number}.npz")
            assert result.status_code == 200
            made = arrays_of(result.content)
            assert made["data_inpainted"].shape == array.shape and made["data_inpainted"].dtype == array.dtype
            changed = made["data_inpainted"] != array
            np.testing.assert_array_equal(changed, made["mask"] > 0)
            assert made["mask"][3, 5, 4] == 1  # the middle, (k, j, i)
            assert made["boxes_numpy"].tolist() == [3, 11, 20, 32, 40, 50]
        assert client.get("/flush_memory").status_code == 200
        assert download(client, "data/out/img_data0.npz").status_code == 404
        assert client.app.state.sessions.bytes() == 0
    assert [(texture, jump) for texture, _, jump, _ in engine.calls] == [(2, None), (3, None)]
    assert engine.calls[0][3].image.shape == (10, 12, 8)  # (i, j, k)


def test_it_is_off_unless_asked_for(serving, crop):
    with serving() as client:
        assert upload(client, "a.npz", crop()[0]).status_code == 404
        assert client.get("/flush_memory").status_code == 404


def test_the_own_calls_still_need_the_token(serving, pack, region):
    with serving(slicer=True) as client:
        del client.headers["authorization"]
        assert client.post("/v1/jobs", content=pack(**region)).status_code == 401


@pytest.mark.parametrize(
    "name", ["../../evil.npz", "/etc/passwd", "..\\..\\evil.npz", "C:\\evil.npz", "data/in/../evil.npz"]
)
def test_only_the_base_name_of_a_path_counts(serving, crop, files, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    with serving(slicer=True) as client:
        assert upload(client, name, crop()[0]).status_code == 200
        assert run(client, base).text.startswith("Success")
        assert download(client, f"/any/thing/{base}").status_code == 200
        assert download(client, "/etc/hostname").status_code == 404
        assert download(client, "").status_code == 404
    assert files(tmp_path) == {} and not (tmp_path.parent / "evil.npz").exists()


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"data": None}, "lacks data"),
        ({"histogram": None, "boxes_numpy": None}, "lacks histogram, boxes_numpy"),
        ({"histogram": 4}, "histogram must be 1, 2 or 3"),
        ({"histogram": [1, 2]}, "histogram must be 1, 2 or 3"),
        ({"boxes_numpy": [1, 2]}, "boxes_numpy must hold 6 numbers"),
        ({"data": np.zeros((4, 4))}, "array 'data' has shape (4, 4)"),
        ({"data": np.full((8, 8, 8), np.nan)}, "NaN"),
        ({"more": 1}, "'more' is not expected"),
    ],
)
def test_wrong_crops_are_422(serving, crop, changed, said):
    with serving(slicer=True) as client:
        answer = upload(client, "a.npz", crop(**changed)[0])
        assert answer.status_code == 422 and said in answer.json()["detail"]
        assert client.app.state.sessions.bytes() == 0


def test_pickles_oversize_and_other_forms(serving, crop, pickled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving(slicer=True, upload_bytes=20_000) as client:
        assert upload(client, "a.npz", pickled).status_code == 422
        assert upload(client, "a.npz", bytes(30_000)).status_code == 413
        assert client.post("/upload", content=b"x").status_code == 422
        assert client.post("/upload", data={"file": "x"}).status_code == 422
        broken = {"Content-Type": "multipart/form-data; boundary=x"}
        assert client.post("/upload", content=b"--y\r\nrubbish", headers=broken).status_code == 422
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"jump_length": 0}, "jump_length=0 must be a whole number from 1 to 20"),
        ({"jump_n_sample": 1000}, "from 1 to 20"),
        ({"jump_n_sample": "0000000011000"}, "from 1 to 20"),
        ({"jump_length": "x"}, "from 1 to 20"),
        ({"batch_size": -1}, "batch_size=-1 must be a whole number from 1 to 1000000"),
    ],
)
def test_wrong_numbers_are_an_error(serving, crop, fields, said):
    with serving(slicer=True) as client:
        upload(client, "a.npz", crop()[0])
        answer = run(client, "a.npz", **fields)
        assert answer.status_code == 422 and answer.text.startswith("Error: ") and said in answer.text
        assert run(client, "b.npz").text.startswith("Error: ")
        assert run(client).text.startswith("Error: ")


def test_jumps_are_those_of_repaint(serving, engine, crop):
    with serving(slicer=True) as client:
        upload(client, "a.npz", crop()[0])
        assert run(client, "a.npz", jump_length=2, jump_n_sample=3).text.startswith("Success")
    assert engine.calls[0][2] == (2, 3)


def test_two_clients_of_one_address_are_apart_with_words(serving, crop):
    """They name their files the same."""
    sessions = {"/s/alice-1234": crop(1), "/s/robert-5678": crop(2)}
    with serving(slicer=True) as client:
        for prefix, (content, _) in sessions.items():
            upload(client, "img_data0.npz", content, prefix)
        for prefix in sessions:
            assert run(client, "img_data0.npz", prefix=prefix).text.startswith("Success")
        for prefix, (_, data) in sessions.items():
            made = arrays_of(download(client, "out/img_data0.npz", prefix).content)
            assert (made["data_inpainted"] == data)[made["mask"] == 0].all()
        assert download(client, "out/img_data0.npz").status_code == 404
        client.get("/s/alice-1234/flush_memory")
        assert download(client, "out/img_data0.npz", "/s/robert-5678").status_code == 200
        assert client.get("/s/short/flush_memory").status_code == 404


def test_clients_of_other_addresses_are_apart(serving, crop):
    from fastapi.testclient import TestClient

    with serving(slicer=True) as client:
        upload(client, "a.npz", crop()[0])
        other = TestClient(client.app, "http://127.0.0.1:8888", client=("10.0.0.7", 1))
        assert run(other, "a.npz").text.startswith("Error: ")
        other.get("/flush_memory")
        assert run(client, "a.npz").text.startswith("Success")


def test_memory_of_sessions_is_bounded_and_returns(serving, crop, monkeypatch):
    from LeFusion.server import lefusion_slicer

    monkeypatch.setattr(lefusion_slicer, "MOST_FILES", 2)
    monkeypatch.setattr(lefusion_slicer, "MOST_SESSIONS", 2)
    content, data = crop()
    with serving(slicer=True, kept_seconds=3, upload_bytes=len(content) + 500) as client:
        codes = [
            upload(client, f"{number}.npz", content, "/s/one-of-them").status_code for number in range(3)
        ]
        assert codes == [200, 200, 413]
        codes = [upload(client, "a.npz", content, f"/s/number-{number}").status_code for number in range(3)]
        assert codes == [200, 503, 503]
        time.sleep(3.3)
        assert upload(client, "a.npz", content, "/s/somebody").status_code == 200
        assert client.app.state.sessions.bytes() < 2 * data.nbytes
