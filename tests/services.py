"""Real services for tests: an S3 server that is a mock, one that is none, and one that has faults."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.worlds import needs

BUCKET = "craftkit"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIDFORTESTS",
    "AWS_SECRET_ACCESS_KEY": "secretfortests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def free_port() -> int:
    """Return a port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def moto_server() -> Iterator[str]:
    """Run moto's S3 in a thread of this process, with one empty bucket, and give its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moto.server import ThreadedMotoServer
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        make_bucket(url)
        yield url
    finally:
        server.stop()


def make_bucket(url: str, name: str = BUCKET) -> None:
    """Make a bucket at a service that asks for no signature."""
    request = urllib.request.Request(f"{url}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def rclone_server(folder: Path) -> Iterator[str]:
    """Run `rclone serve s3` over a folder, whose folders are its buckets, and give its URL."""
    rclone = Path(sys.executable).with_name("rclone")
    program = str(rclone) if rclone.exists() else needs("rclone")
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    port = free_port()
    keys = f"{CREDENTIALS['AWS_ACCESS_KEY_ID']},{CREDENTIALS['AWS_SECRET_ACCESS_KEY']}"
    words = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", keys, "--config", os.devnull]
    with subprocess.Popen([*words, "--dir-cache-time", "0s", str(folder)], stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _wait_for(port: int) -> None:
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.025)
        else:
            return
    raise TimeoutError(f"Nothing listens on port {port}.")
