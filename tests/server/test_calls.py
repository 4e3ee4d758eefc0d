"""The server's own calls: what is done, what is refused with which status, and what is left."""

import io
import time
import zipfile

import numpy as np
import pytest


def ended(client, job: dict, seconds: float = 20) -> dict:
    """The state of a job once it has ended."""
    end = time.monotonic() + seconds
    while job["status"] in ("waiting", "running"):
        assert time.monotonic() < end, job
        time.sleep(0.01)
        job = client.get(f"/v1/jobs/{job['id']}").json()
    return job


def arrays_of(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def test_a_region_is_painted(serving, engine, pack, region):
    with serving() as client:
        answer = client.post("/v1/jobs?texture=solid&seed=7", content=pack(**region))
        assert answer.status_code == 202
        job = ended(client, answer.json())
        assert (job["status"], job["progress"], job["error"]) == ("done", 1.0, "")
        made = arrays_of(client.get(f"/v1/jobs/{job['id']}/result").content)
        assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
        assert client.get(f"/v1/jobs/{job['id']}").status_code == 404
    assert made["image"].dtype == np.int16
    np.testing.assert_array_equal(made["image"], region["image"] + 100 * region["mask"].astype(np.int16))
    np.testing.assert_array_equal(made["mask"], region["mask"])
    ((texture, seed, jump, given),) = engine.calls
    assert (texture, seed, jump) == ("solid", 7, None)
    np.testing.assert_array_equal(given.affine, region["affine"])


def test_a_point_and_a_diameter_instead_of_a_mask(serving, engine, pack, region):
    del region["mask"]
    with serving() as client:
        content = pack(**region, centre=np.array([4, 5.5, 6]))
        ended(client, client.post("/v1/jobs?diameter_mm=9", content=content).json())
    (call,) = engine.calls
    assert call[0] == "realistic" and call[3].centre == (4, 5.5, 6) and call[3].diameter_mm == 9


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic eDp5", "Bearer Ä"])
def test_without_the_token_there_is_nothing_but_health(serving, header):
    with serving() as client:
        del client.headers["authorization"]
        headers = {} if header is None else {"Authorization": header.encode("latin-1")}
        for method, path in (
            ("GET", "/v1/textures"),
            ("POST", "/v1/jobs"),
            ("GET", "/v1/jobs/x"),
            ("GET", "/v1/jobs/x/result"),
            ("DELETE", "/v1/jobs/x"),
        ):
            assert client.request(method, path, headers=headers).status_code == 401
        health = client.get("/health")
        assert health.status_code == 200 and health.json()["status"] == "ok"
    with serving(token=None) as client:
        del client.headers["authorization"]
        assert client.get("/v1/textures").json() == ["realistic", "mixture", "solid", "ground-glass"]


def test_a_misspelt_parameter_is_refused(serving, engine, pack, region):
    with serving() as client:
        answer = client.post("/v1/jobs?diameter=9", content=pack(**region))
        assert answer.status_code == 422
        assert answer.json()["detail"] == (
            "parameter 'diameter' is unknown; there are diameter_mm, seed, texture"
        )
        answer = client.get("/v1/textures?seed=1")
        assert answer.status_code == 422 and "this call has none" in answer.json()["detail"]
        del client.headers["authorization"]
        assert client.get("/v1/textures?seed=1").status_code == 401
    assert engine.calls == []


def test_oversize_is_413(serving, pack, region):
    content = pack(**region)
    with serving(upload_bytes=len(content) - 1) as client:
        assert client.post("/v1/jobs", content=content).status_code == 413
        parts = (content[i : i + 100] for i in range(0, len(content), 100))  # without a Content-Length
        assert client.post("/v1/jobs", content=parts).status_code == 413
        assert client.get("/health").json()["waiting"] == 0
    with serving(upload_bytes=len(content)) as client:
        assert client.post("/v1/jobs", content=content).status_code == 202


def wrong(region, **changed):
    return {name: array for name, array in (region | changed).items() if array is not None}


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"image": None}, "send the arrays image, affine, and either mask or centre"),
        ({"affine": None}, "send the arrays"),
        ({"mask": None}, "either mask or centre"),
        ({"centre": np.zeros(3)}, "either mask or centre"),
        ({"other": np.zeros(3)}, "array 'other' is not expected"),
        ({"../../x": np.zeros(3)}, "array '../../x' is not expected"),
        ({"image": np.zeros((5, 5))}, "array 'image' has shape (5, 5)"),
        ({"image": np.zeros((1, 9, 9))}, "at least 4 voxels"),
        ({"image": np.zeros((9, 10, 200))}, "more than 10000"),
        ({"image": np.full((9, 10, 11), np.nan)}, "holds NaN or infinite values"),
        ({"image": np.zeros((9, 10, 11), complex)}, "holds complex128, not numbers"),
        ({"image": np.full((9, 10, 11), "text")}, "not numbers"),
        ({"affine": np.eye(3)}, "array 'affine' has shape (3, 3)"),
        ({"affine": np.full((4, 4), np.inf)}, "finite numbers"),
        ({"affine": np.zeros((4, 4))}, "array 'affine' gives a voxel no size"),
        (
            {"mask": np.zeros((9, 10, 12), np.uint8)},
            "array 'mask' has shape (9, 10, 12), the image (9, 10, 11)",
        ),
        ({"mask": np.zeros((9, 10, 11), np.uint8)}, "must hold 0 and 1"),
        ({"mask": np.full((9, 10, 11), 2, np.uint8)}, "must hold 0 and 1"),
        ({"mask": None, "centre": np.zeros(2)}, "array 'centre' has shape (2,)"),
        ({"mask": None, "centre": np.array([0, 0, 11])}, "lies outside"),
        ({"mask": None, "centre": np.array([0, 0, np.nan])}, "array 'centre'"),
    ],
)
def test_wrong_arrays_are_422(serving, pack, region, changed, said):
    with serving(voxels=10_000) as client:
        answer = client.post("/v1/jobs", content=pack(**wrong(region, **changed)))
        assert answer.status_code == 422 and said in answer.json()["detail"], answer.text
        assert client.get("/health").json()["waiting"] == 0


@pytest.mark.parametrize(
    "query", ["texture=nothing", "seed=-1", "seed=x", "diameter_mm=0.1", "diameter_mm=1e9"]
)
def test_wrong_parameters_are_422(serving, pack, region, query):
    with serving() as client:
        assert client.post(f"/v1/jobs?{query}", content=pack(**region)).status_code == 422
        assert client.post("/v1/jobs?diameter_mm=9", content=pack(**region)).status_code == 422  # with a mask


def bomb() -> bytes:
    """A few kB that unpack to 50 MB."""
    file = io.BytesIO()
    np.savez_compressed(file, image=np.zeros(50_000_000, np.uint8))
    return file.getvalue()


def forged(header: dict, size: int) -> bytes:
    """An array whose header promises more than there is."""
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, header)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("image.npy", member.getvalue() + bytes(size))
    return archive.getvalue()


HUGE = {"descr": "<i2", "fortran_order": False, "shape": (1 << 20, 1 << 20, 1 << 20)}


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "is no .npz file"),
        (b"nothing", "is no .npz file"),
        (b"PK\x03\x04" + bytes(100), "is no .npz file"),
        (bomb(), "take more than 4 MB"),
        (forged(HUGE, 100), "its size is not that of"),
        (forged(HUGE | {"shape": (2, 3, 4)}, 49), "its size is not that of"),
    ],
)
def test_damaged_and_malicious_files_are_422(serving, content, said):
    with serving(upload_bytes=1_000_000) as client:
        answer = client.post("/v1/jobs", content=content)
        assert answer.status_code == 422 and said in answer.json()["detail"], answer.text


def test_nothing_is_unpickled(serving, pickled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving() as client:
        answer = client.post("/v1/jobs", content=pickled)
    assert answer.status_code == 422 and "Python objects are not read" in answer.json()["detail"]
    assert list(tmp_path.iterdir()) == []


def test_jobs_wait_are_cancelled_and_too_many_are_503(serving, engine, pack, region):
    content = pack(**region)
    engine.gate.clear()
    with serving(waiting=2) as client:
        jobs = [client.post("/v1/jobs", content=content).json()]
        assert engine.painting.wait(10)
        jobs += [client.post("/v1/jobs", content=content).json() for _ in range(2)]
        assert [job["before"] for job in jobs] == [0, 1, 2]
        refused = client.post("/v1/jobs", content=content)
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert client.get("/health").json() | {"waiting": 2, "running": 1} == client.get("/health").json()
        assert client.get(f"/v1/jobs/{jobs[1]['id']}/result").status_code == 409
        for job in (jobs[1], jobs[0]):  # one that waits, one that runs
            assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
        engine.gate.set()
        assert ended(client, jobs[2] | {"status": "waiting"})["status"] == "done"
        assert [client.get(f"/v1/jobs/{job['id']}").status_code for job in jobs] == [404, 404, 200]
        assert len(engine.calls) == 2


def test_a_job_that_takes_too_long_fails(serving, engine, pack, region):
    engine.gate.clear()
    with serving(job_seconds=0.05) as client:
        job = ended(client, client.post("/v1/jobs", content=pack(**region)).json())
        assert job["status"] == "failed" and "took longer than 0.05 s" in job["error"]


def test_a_bug_is_said_and_the_server_goes_on(serving, engine, pack, region, monkeypatch, capfd):
    def fail(*arguments):
        raise ZeroDivisionError

    with serving() as client:
        with monkeypatch.context() as patched:
            patched.setattr(engine, "paint", fail)
            job = ended(client, client.post("/v1/jobs", content=pack(**region)).json())
        assert job["status"] == "failed" and "ZeroDivisionError" in job["error"]
        assert ended(client, client.post("/v1/jobs", content=pack(**region)).json())["status"] == "done"
    assert "Traceback" in capfd.readouterr().err


def test_jobs_that_nobody_asks_for_are_dropped_and_memory_returns(serving, engine, pack, region):
    """Also a client that goes away after its upload: its job neither runs on nor keeps its arrays."""
    engine.gate.clear()
    with serving(kept_seconds=0.2, waiting=3) as client:
        for _ in range(3):
            client.post("/v1/jobs", content=pack(**region))
        end = time.monotonic() + 20
        while (counts := client.app.state.service.queue.counts()) != {"waiting": 0, "running": 0}:
            assert time.monotonic() < end, counts
            time.sleep(0.02)
        assert client.app.state.service.queue._jobs == {}


def test_only_so_many_results_are_kept(serving, pack, region):
    with serving(kept=2) as client:
        jobs = [ended(client, client.post("/v1/jobs", content=pack(**region)).json()) for _ in range(4)]
        time.sleep(1)
        assert [client.get(f"/v1/jobs/{job['id']}").status_code for job in jobs] == [404, 404, 200, 200]


def test_names_of_jobs_cannot_be_guessed(serving, pack, region):
    with serving() as client:
        names = {client.post("/v1/jobs", content=pack(**region)).json()["id"] for _ in range(3)}
        assert len(names) == 3 and min(map(len, names)) >= 20
        for name in ("..", "%2e%2e%2fetc%2fpasswd", "a" * 5000):
            assert client.get(f"/v1/jobs/{name}/result").status_code == 404
