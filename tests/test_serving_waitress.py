"""What `server/http.py` uses inside waitress is still there; what is gone is named."""

import ast
import inspect
import socket
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import BaseWSGIServer
from waitress.task import ThreadedTaskDispatcher, WSGITask

import server.http as http
from server.http import Server

TREE = ast.parse(inspect.getsource(http))
CLASSES = {node.name: node for node in TREE.body if isinstance(node, ast.ClassDef)}
# Our classes, and those of waitress that they extend.
EXTENDED = ("_Parser", "_Task", "_File", "_Channel", "_Dispatcher", "_Listener")
# What each class defines for itself, and waitress never asks for.
OWN = {
    "_Parser": {"_read_start", "_read_headers", "_read_length"},
    "_Channel": {"_settle"},
}


@pytest.fixture
def living() -> Iterator[dict[str, Any]]:
    """Return an instance of each class, by its name."""
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listener.getsockname()) as client:
        found = Server(lambda *_: [], [listener], threads=1)
        server = next(one for one in found.map.values() if isinstance(one, BaseWSGIServer))
        server.handle_accept()
        [channel] = found.connections()
        request = http._Parser(found.adjustments)
        request.received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        task = http._Task(channel, request)
        task.start()
        yield {
            "_Parser": request,
            "_File": http._File(BytesIO(b"")),
            "_Task": task,
            "_Channel": channel,
            "_Dispatcher": found.dispatcher,
            "_Listener": server,
        }
        client.close()
        found.dispatcher.shutdown()
        channel.handle_close()
        server.close()


def _methods(name: str) -> set[str]:
    return {node.name for node in CLASSES[name].body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", EXTENDED)
def test_what_is_overridden_is_there_to_be_overridden(name: str) -> None:
    bases = [base for base in getattr(http, name).__mro__ if base.__module__.startswith("waitress.")]
    for method in _methods(name) - OWN.get(name, set()) - {"__init__"}:
        assert any(hasattr(base, method) for base in bases), f"waitress has no {bases[0].__name__}.{method} any more"


def test_every_name_that_is_used_is_there(living: dict[str, Any]) -> None:
    # In these, a variable of this name is an instance of this class.
    known = {"channel": "_Channel", "request": "_Parser", "listener": "_Listener", "task": "_Channel"}
    for name, tree in CLASSES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                owner = name if node.value.id == "self" else known.get(node.value.id)
                if owner in living and node.attr != "error":
                    assert hasattr(living[owner], node.attr), f"waitress has no {owner}.{node.attr} any more"


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (ThreadedTaskDispatcher.handler_thread, "task.service()"),
        (WSGITask.execute, "prepare(cl)"),
        (BaseWSGIServer.handle_accept, "self.channel_class(self, conn, addr, self.adj, map=self._map)"),
        (HTTPRequestParser.received, "br.received(data)"),
        (HTTPRequestParser.received, "br.error"),
        (HTTPRequestParser.received, "br.completed"),
        (HTTPChannel.service, "self.requests.pop(0)"),
        (HTTPChannel.received, "self.server.add_task(self)"),
        (HTTPChannel.handle_write, "self.handle_close()"),
        (HTTPChannel.send_continue, "self.request.completed = False"),
        (HTTPRequestParser.received, "self.parse_header(header_plus)"),
    ],
)
def test_waitress_still_calls_what_is_overridden(function: Any, word: str) -> None:
    assert word in inspect.getsource(function), f"{function.__qualname__} no longer has `{word}`"
