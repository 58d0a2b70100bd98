"""What an HTTP/3 client that we did not write sees of a gateway: aioquic, as browsers and programs would use it.

Run by the journey tests/tests/journeys/http3.rs: `http3.py ADDRESS PORT HOST`. HOST is served by the harness's upstream.
Each exchange that went well says so; a failed assertion names the one that did not.
"""

import asyncio
import os
import ssl
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset

# Seconds; nothing below waits for this long when all is well.
PATIENCE = 60
MEBIBYTE = 1 << 20
# RFC 9114 §8.1; RFC 9220 §5.
MESSAGE_ERROR = 0x10E
ENABLE_CONNECT_PROTOCOL = 0x8


class Client(QuicConnectionProtocol):
    """One connection; the events of each stream wait in a queue of its own."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.http = H3Connection(self._quic)
        self.streams = {}
        self.terminated = None

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.terminated = event
            for queue in self.streams.values():
                queue.put_nowait(event)
        if isinstance(event, StreamReset):
            self.events(event.stream_id).put_nowait(event)
        for http_event in self.http.handle_event(event):
            self.events(http_event.stream_id).put_nowait(http_event)

    def events(self, stream):
        return self.streams.setdefault(stream, asyncio.Queue())

    def begin(self, host, method, path, fields=(), ended=False, protocol=None):
        stream = self._quic.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "https"), (":authority", host), (":path", path)]
        head += [(":protocol", protocol)] if protocol else []
        encoded = [(name.encode(), value.encode()) for name, value in [*head, *fields]]
        self.http.send_headers(stream, encoded, end_stream=ended)
        self.transmit()
        return stream

    def send(self, stream, data, ended=False):
        self.http.send_data(stream, data, end_stream=ended)
        self.transmit()

    async def next(self, stream):
        return await asyncio.wait_for(self.events(stream).get(), PATIENCE)

    async def head(self, stream):
        event = await self.next(stream)
        assert isinstance(event, HeadersReceived), event
        fields = {name.decode(): value.decode() for name, value in event.headers}
        return int(fields[":status"]), fields, event.stream_ended

    async def whole(self, stream):
        """The status, the fields, the body and the trailers of an answer."""
        status, fields, ended = await self.head(stream)
        body, trailers = b"", {}
        while not ended:
            event = await self.next(stream)
            if isinstance(event, DataReceived):
                body += event.data
            elif isinstance(event, HeadersReceived):
                trailers = {name.decode(): value.decode() for name, value in event.headers}
            else:
                raise AssertionError(f"the answer ends: {event}")
            ended = event.stream_ended
        return status, fields, body, trailers


async def settings(client, host):
    await client.whole(client.begin(host, "GET", "/name", ended=True))
    assert client.http.received_settings.get(ENABLE_CONNECT_PROTOCOL) == 1, client.http.received_settings


async def a_page(client, host):
    status, fields, body, _ = await client.whole(client.begin(host, "GET", "/name", ended=True))
    assert (status, body, fields["content-length"]) == (200, b"office", "6"), (status, fields, body)


async def a_hundred_pages_at_once(client, host):
    streams = [client.begin(host, "GET", "/name", ended=True) for _ in range(100)]
    answers = await asyncio.gather(*(client.whole(stream) for stream in streams))
    assert all((status, body) == (200, b"office") for status, _, body, _ in answers), answers


async def an_upload(client, host):
    data = os.urandom(MEBIBYTE)
    stream = client.begin(host, "POST", "/echo", [("content-length", str(len(data)))])
    client.send(stream, data[:1000])
    client.send(stream, data[1000:], ended=True)
    status, _, body, _ = await client.whole(stream)
    assert status == 200 and body == data, (status, len(body))


async def trailers(client, host):
    status, _, body, trailers = await client.whole(client.begin(host, "GET", "/trailers", [("te", "trailers")], ended=True))
    assert (status, body, trailers.get("x-checksum")) == (200, b"a body", "abc"), (status, body, trailers)


async def an_unknown_host(client, _):
    status, _, body, _ = await client.whole(client.begin("other.example.com", "GET", "/", ended=True))
    assert status == 404 and b"other.example.com" in body, (status, body)


async def a_malformed_request(client, host):
    stream = client.begin(host, "GET", "/name", [("connection", "close")], ended=True)
    event = await client.next(stream)
    assert isinstance(event, StreamReset) and event.error_code == MESSAGE_ERROR, event
    await a_page(client, host)


async def a_websocket(client, host):
    fields = [("sec-websocket-version", "13"), ("origin", f"https://{host}")]
    stream = client.begin(host, "CONNECT", "/websocket", fields, protocol="websocket")
    status, fields, _ = await client.head(stream)
    assert status == 200 and "sec-websocket-accept" not in fields, (status, fields)
    # A text frame under a mask of zeros, and the echo without one (RFC 6455 §5.2).
    client.send(stream, b"\x81\x85\0\0\0\0hello")
    echo = b""
    while len(echo) < 7:
        echo += (await client.next(stream)).data
    assert echo == b"\x81\x05hello", echo
    # A close frame with the code 1000, which is answered by the same; then both ends are done.
    client.send(stream, b"\x88\x82\0\0\0\0\x03\xe8", ended=True)
    rest, ended = b"", False
    while not ended:
        event = await client.next(stream)
        rest, ended = rest + event.data, event.stream_ended
    assert rest == b"\x88\x02\x03\xe8", rest


async def main(address, port, host):
    configuration = QuicConfiguration(alpn_protocols=["h3"], server_name=host, verify_mode=ssl.CERT_NONE)
    async with connect(address, port, configuration=configuration, create_protocol=Client) as client:
        exchanges = [
            settings, a_page, a_hundred_pages_at_once, an_upload, trailers, an_unknown_host, a_malformed_request, a_websocket,
        ]
        for exchange in exchanges:
            await asyncio.wait_for(exchange(client, host), PATIENCE)
            assert client.terminated is None, (exchange.__name__, client.terminated)
            print(f"{exchange.__name__}: well")


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
