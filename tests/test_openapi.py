"""The description of the API and the server that answers it say the same."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, settings, strategies

from craftkit_archive.archive import Archive
from craftkit_archive.records import Status
from server.app import PUBLIC, Service
from server.listing import DEFAULT_LIMIT, MAX_LIMIT
from tests.worlds import LIVE_KEY, ROOT, fill, live, render_id

FILE = ROOT / "server/static/openapi.yaml"
DESCRIBED: dict[str, Any] = yaml.safe_load(FILE.read_text())
PAGE = {path for path in PUBLIC if path != "/openapi.yaml"}


def cursor(created_at: str, id_: str) -> str:
    """Write a cursor as the server does."""
    return urlsafe_b64encode(json.dumps([created_at, id_]).encode()).decode()


# A cursor is opaque to clients, who send back what they were given.
CURSORS = [cursor("2026-01-31T10:00:00.000Z", render_id(1)), cursor("", "a")]
schemathesis.openapi.format("cursor", strategies.sampled_from(CURSORS))
# Good requests may ask for another version, or for bytes behind the end.
ACCEPTED = ["2xx", "304", "404", "409", "412", "416"]
CONFIG = schemathesis.Config.from_dict({"checks": {"positive_data_acceptance": {"expected-statuses": ACCEPTED}}})
schema = schemathesis.openapi.from_path(FILE, config=CONFIG)
QUERY = {parameter["name"] for parameter in DESCRIBED["paths"]["/v1/renders"]["get"]["parameters"]}


@schema.hook
def filter_query(context: schemathesis.HookContext, query: Any) -> bool:
    """Leave out parameters that are not described: they are passed over, which schemathesis takes for a fault."""
    return set(query or {}) <= QUERY


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a filled archive."""
    world = fill(tmp_path_factory.mktemp("openapi"))
    with world.archive, live(world.archive) as url:
        yield url


def test_every_route_is_described_and_every_description_has_a_route(archive: Archive) -> None:
    served = {route.rule.replace("<render_id>", "{id}") for route in Service(archive).app.routes}
    assert served - PAGE == set(DESCRIBED["paths"])


def test_the_numbers_and_words_of_the_description_are_those_of_the_code() -> None:
    assert DESCRIBED["components"]["schemas"]["Status"]["enum"] == list(get_args(Status))
    limit = DESCRIBED["paths"]["/v1/renders"]["get"]["parameters"][0]["schema"]
    assert (limit["maximum"], limit["default"]) == (MAX_LIMIT, DEFAULT_LIMIT)


def test_the_description_is_served_as_it_is(url: str) -> None:
    answer = requests.get(f"{url}/openapi.yaml", timeout=10)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/yaml")
    assert answer.content == FILE.read_bytes()


@pytest.mark.parametrize("path", [path for path in DESCRIBED["paths"] if path.startswith("/v1/")])
def test_an_answer_to_a_good_request_is_as_described(url: str, path: str) -> None:
    case = schema[path]["GET"].Case(path_parameters={"id": render_id(1)})
    case.call_and_validate(base_url=url, headers={"Authorization": f"Bearer {LIVE_KEY}"})


@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_nothing_that_is_asked_is_answered_otherwise_than_described(case: "schemathesis.Case[Any]", url: str) -> None:
    key = {"Authorization": f"Bearer {LIVE_KEY}"}
    answer = case.call(base_url=url, headers=key)
    assert answer.status_code < 500
    case.validate_response(answer, headers=key)
