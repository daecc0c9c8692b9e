"""A small S3 service that behaves like services other than AWS, one quirk at a time, as their users reported them."""

import base64
import hashlib
import re
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

REGION = "garage"
MULTIPART_TAG = '"0123456789abcdef0123456789abcdef-2"'
OTHER_TAG = '"0123456789abcdef0123456789abcdef"'


@dataclass
class QuirkyS3:
    """The service.

    Attributes:
        quirks: What is peculiar about it; `Handler` says what each does.
        where: What the keys that the quirks concern contain.
        objects: Its objects by key, whatever the bucket.
        asked: Method and key of each request.
        headers: The headers of each request, by name in lower case.
    """

    quirks: set[str] = field(default_factory=set)
    where: str = ".pdf"
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    lock: Lock = field(default_factory=Lock)
    url: str = ""


@contextmanager
def quirky_s3(*quirks: str, where: str = ".pdf", certificate: Path | None = None) -> Iterator[QuirkyS3]:
    """Run the service on the loopback, with TLS if there is a certificate with its key."""
    service = QuirkyS3(set(quirks), where)
    handler = type("QuirkyHandler", (Handler,), {"service": service})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        service.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
        if certificate is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield service
        finally:
            server.shutdown()


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    service: QuirkyS3
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""

    def has(self, quirk: str) -> bool:
        """Say whether the service has a quirk."""
        return quirk in self.service.quirks

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send an answer; a header's name has dashes for underscores."""
        self.send_response_only(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        with suppress(OSError):
            if self.command != "HEAD":
                self.wfile.write(body)

    def refuse(self, status: int, code: str, **headers: str) -> None:
        """Refuse in S3's form."""
        region = f"<Region>{REGION}</Region>" if code == "AuthorizationHeaderMalformed" else ""
        text = f"<Error><Code>{code}</Code><Message>what the service says</Message>{region}</Error>"
        self.answer(status, text.encode(), **headers)

    def handle_any(self) -> None:
        """Answer a request."""
        url = urlsplit(self.path)
        path = unquote(url.path).lstrip("/")
        key = path if self.headers.get("Host", "").startswith("bucket.") else path.partition("/")[2]
        query = parse_qs(url.query, keep_blank_values=True)
        with self.service.lock:
            self.service.asked.append((self.command, key))
            self.service.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.service.seen[self.command, key] += 1
            count = self.service.seen[self.command, key]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.admitted():
            return
        if key:
            self.answer_object(key, query, body, count)
        elif self.command == "HEAD":
            self.answer(200, x_amz_bucket_region=REGION)
        else:
            self.answer_list(query)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def admitted(self) -> bool:
        """Check who asks, and where."""
        signed = self.headers.get("Authorization", "")
        region = (re.search(r"Credential=[^/]+/\d+/([^/]+)/", signed) or ["", ""])[1]
        if self.has("names-region") and region != REGION:
            self.refuse(400, "AuthorizationHeaderMalformed")
        elif self.has("redirects") and region != REGION:
            self.answer(301, x_amz_bucket_region=REGION)
        elif self.has("anonymous-only") and signed:
            self.refuse(403, "AccessDenied")
        elif self.has("bad-key"):
            self.refuse(403, "InvalidAccessKeyId")
        else:
            return True
        return False

    # --- lists

    def answer_list(self, query: dict[str, list[str]]) -> None:
        """Answer a list, two keys a page."""
        if self.has("no-list"):
            return self.refuse(403, "AccessDenied")
        keys = sorted(key for key in self.service.objects if key.startswith(query.get("prefix", [""])[0]))
        begin = int(query.get("continuation-token", ["0"])[0])
        page, rest = keys[begin : begin + 2], keys[begin + 2 :]
        size = "" if self.has("list-without-sizes") else "<Size>{}</Size>"
        rows = "".join(
            f"<Contents><Key>{escape(self.encoded(key, query))}</Key>"
            f"<LastModified>2026-01-01T00:00:00.000Z</LastModified>{size.format(len(self.service.objects[key]))}</Contents>"
            for key in page
        )
        token = str(begin + 2)
        if self.has("list-repeats-itself"):
            rest, token = ["more"], "2"
        goes_on = f"<NextContinuationToken>{token}</NextContinuationToken>" if rest else ""
        if self.has("list-goes-on-nowhere"):
            goes_on = ""
        truncated = "true" if rest else "false"
        encoding = "<EncodingType>url</EncodingType>" if "encoding-type" in query else ""
        text = f"<ListBucketResult>{encoding}<IsTruncated>{truncated}</IsTruncated>{goes_on}{rows}</ListBucketResult>"
        return self.answer(200, text.encode())

    def encoded(self, key: str, query: dict[str, list[str]]) -> str:
        """Write a key as the list that was asked for has it."""
        return quote(key) if "encoding-type" in query else key

    # --- objects

    def answer_object(self, key: str, query: dict[str, list[str]], body: bytes, count: int) -> None:
        """Answer a request for an object."""
        if self.service.where in key:
            for quirk in self.service.quirks:
                found = re.fullmatch(r"(once|always)-(\d{3})-?(\w*)", quirk)
                if found and (found[1] == "always" or count == 1):
                    return self.refuse(int(found[2]), found[3] or "Whatever")
        if self.command in ("PUT", "POST"):
            return self.write(key, query, body, count)
        return self.read(key)

    def read(self, key: str) -> None:
        """Send an object."""
        if self.headers.get("x-amz-checksum-mode") and self.has("no-checksum-mode"):
            return self.refuse(400, "InvalidArgument")
        if self.headers.get("x-amz-checksum-mode") and self.has("checksum-mode-501"):
            return self.refuse(501, "NotImplemented")
        if key not in self.service.objects:
            return self.refuse(404, "NoSuchKey")
        body = self.service.objects[key]
        if self.service.where not in key:
            return self.answer(200, body, ETag=_md5(body))
        if self.has("archived"):
            return self.refuse(403, "InvalidObjectState")
        headers = {"ETag": self.tag(body)}
        if self.has("no-etag"):
            del headers["ETag"]
        if self.has("encrypted"):
            headers["x_amz_server_side_encryption"] = "aws:kms"
        if self.has("checksum") and self.headers.get("x-amz-checksum-mode"):
            headers["x_amz_checksum_sha256"] = base64.b64encode(hashlib.sha256(body).digest()).decode()
        if self.has("wrong-checksum") and self.headers.get("x-amz-checksum-mode"):
            headers["x_amz_checksum_sha256"] = base64.b64encode(bytes(32)).decode()
        if self.has("last-modified"):
            headers["Last_Modified"] = "Thu, 01 Jan 2026 00:00:00 GMT"
        if self.has("no-length") and self.command == "GET":
            self.send_response_only(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
            return None
        if self.has("drips") and self.command == "GET":
            return self.drip(body, headers)
        if self.has("gzips"):
            headers["Content_Encoding"] = "gzip"
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if self.headers.get("If-Match", headers.get("ETag")) != headers.get("ETag") and not self.has("no-if-match"):
            return self.refuse(412, "PreconditionFailed")
        if wanted:
            begin, end = int(wanted[1]), min(int(wanted[2] or len(body)), len(body) - 1)
            headers["Content_Range"] = f"bytes {begin}-{end}/{len(body)}"
            return self.answer(206, body[begin : end + 1], **headers)
        return self.answer(200, body, **headers)

    def drip(self, body: bytes, headers: dict[str, str]) -> None:
        """Send ten bytes a second."""
        self.send_response_only(200)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        with suppress(OSError):
            for at in range(len(body)):
                self.wfile.write(body[at : at + 1])
                self.wfile.flush()
                time.sleep(0.1)

    def tag(self, body: bytes) -> str:
        """Say the ETag of an object."""
        if self.has("encrypted"):
            return OTHER_TAG
        if self.has("in-parts"):
            return MULTIPART_TAG
        tag = _md5(body)
        if self.has("upper-case-etag"):
            return tag.upper()
        return tag.strip('"') if self.has("bare-etag") else tag

    def write(self, key: str, query: dict[str, list[str]], body: bytes, count: int) -> None:
        """Take an object, or a part of one, in."""
        condition = self.headers.get("If-None-Match") or self.headers.get("x-goog-if-generation-match")
        checksum = any(name.lower().startswith("x-amz-checksum") for name in self.headers)
        if self.has("no-conditions-501") and condition:
            return self.refuse(501, "NotImplemented")
        if self.has("no-conditions-400") and condition:
            return self.refuse(400, "InvalidArgument")
        if self.has("no-checksums") and (checksum or "x-amz-sdk-checksum-algorithm" in self.headers):
            return self.refuse(400, "InvalidRequest")
        if self.has("object-lock") and not (checksum or self.headers.get("Content-MD5")):
            return self.refuse(400, "InvalidRequest")
        if self.has("conflicts-once") and condition and count == 1:
            return self.refuse(409, "ConditionalRequestConflict")
        if condition and key in self.service.objects:
            return self.refuse(412, "PreconditionFailed")
        self.service.objects[key] = body
        if self.has("loses-answers") and count == 1:
            self.close_connection = True
            self.connection.close()
            return None
        return self.answer(200, ETag=_md5(body))


def _md5(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
