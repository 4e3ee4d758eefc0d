"""Who may ask the server, and its pages."""

import pytest


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8888"},
        {"Host": "[::1"},
        {"Origin": "http://evil.example"},
    ]
    + [{"Origin": "null"}, {"Origin": "http://127.0.0.1:9999"}],
)
def test_pages_of_other_sites_are_refused(serving, headers):
    with serving(token=None) as client:
        assert client.get("/health", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "headers", [{"Host": "localhost:1"}, {"Host": "[::1]:8888"}, {"Origin": "http://127.0.0.1:8888"}]
)
def test_its_own_pages_are_not(serving, headers):
    with serving() as client:
        assert client.get("/health", headers=headers).status_code == 200


def test_the_address_alone_leads_to_the_documentation(serving):
    with serving() as client:
        answer = client.get("/", follow_redirects=False)
        assert answer.is_redirect and answer.headers["location"] == "/docs"


def test_the_documentation_needs_no_other_site(serving):
    with serving() as client:
        page = client.get("/docs").text
        assert "http://" not in page and "https://" not in page and "/static/swagger-ui-bundle.js" in page
        assert client.get("/static/swagger-ui-bundle.js").status_code == 200
        paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/health", "/v1/textures", "/v1/jobs", "/v1/jobs/{name}", "/v1/jobs/{name}/result"}
