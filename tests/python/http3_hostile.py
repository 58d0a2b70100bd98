"""What a hostile HTTP/3 client can send, byte by byte over aioquic's QUIC (RFC 9114, RFC 9204): the relay ends the
connection or the stream with the code that the RFC names, or serves on.

Run by the journey tests/tests/journeys/http3_hostile.rs: `http3_hostile.py ADDRESS PORT HOST`. Each case that went well
says so; all that did not are named at the end.
"""

import asyncio
import ssl
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.buffer import encode_uint_var as number
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamDataReceived, StreamReset

# Seconds; nothing below waits for this long when all is well.
PATIENCE = 60
DATA, HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0, 1, 3, 4, 5, 7, 13
CONTROL, PUSH, ENCODER, DECODER = b"\0", b"\1", b"\2", b"\3"
# RFC 9114 §8.1.
NO_ERROR, STREAM_CREATION, CLOSED_CRITICAL, UNEXPECTED, FRAME, EXCESSIVE_LOAD = 0x100, 0x103, 0x104, 0x105, 0x106, 0x107
ID, SETTING, MISSING_SETTINGS, MESSAGE = 0x108, 0x109, 0x10A, 0x10E
# RFC 9204 §6, RFC 9000 §20.1.
DECOMPRESSION, PROTOCOL_VIOLATION = 0x200, 0xA
# A type of no meaning (RFC 9114 §7.2.8).
RESERVED = 0x1F * 7 + 0x21
HOST = sys.argv[3]


def frame(kind, payload=b""):
    return number(kind) + number(len(payload)) + payload


def prefixed(first, bits, value):
    """RFC 7541 §5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    rest, out = value - most, bytes([first | most])
    while rest >= 0x80:
        out, rest = out + bytes([rest & 0x7F | 0x80]), rest >> 7
    return out + bytes([rest])


def literal(name, value):
    """RFC 9204 §4.5.6."""
    return prefixed(0x20, 3, len(name)) + name + prefixed(0, 7, len(value)) + value


def section(fields):
    return b"\0\0" + b"".join(literal(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields)


def get(path="/name", method="GET"):
    return [(":method", method), (":scheme", "https"), (":authority", HOST), (":path", path)]


def head(fields=None):
    return frame(HEADERS, section(fields or get()))


def posts(*fields):
    return head([*get("/digest", "POST"), *fields])


class Client(QuicConnectionProtocol):
    """One connection, which does nothing by itself."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.happened = asyncio.Queue()
        self.control = None
        self.passes_over_resets = False

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.happened.put_nowait(("connection", event.error_code))
        elif isinstance(event, (StreamReset, StopSendingReceived)) and event.stream_id % 4 == 0:
            # A server that answers early may decline the rest so (RFC 9114 §4.1).
            if not self.passes_over_resets and event.error_code != NO_ERROR:
                self.happened.put_nowait(("stream", event.error_code))
        elif isinstance(event, StreamDataReceived) and event.stream_id % 4 == 0:
            # An end without anything is no answer, to any client.
            self.happened.put_nowait(("answer", event.data) if event.data else ("end", 0))

    def uni(self, data, end=False):
        stream = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self._quic.send_stream_data(stream, data, end_stream=end)
        return stream

    def ask(self, data, end=True):
        stream = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(stream, data, end_stream=end)
        return stream

    def more(self, stream, data=b"", end=False):
        self._quic.send_stream_data(stream, data, end_stream=end)

    def begin(self, settings=b""):
        """Our control stream, as it should be."""
        self.control = self.uni(CONTROL + frame(SETTINGS, settings))

    async def comes(self):
        self.transmit()
        return await asyncio.wait_for(self.happened.get(), PATIENCE)


CASES = []


def case(name, *wanted):
    """A case: what must come first, one of `wanted`; `200` and `431` are answers, after which the connection serves."""

    def keep(function):
        CASES.append((name, wanted, function))
        return function

    return keep


def control(name, *wanted, settings=b""):
    """A case that sends this on the control stream behind the settings."""

    def keep(make):
        def act(client):
            client.begin(settings)
            client.more(client.control, make())
            client.transmit()

        CASES.append((name, wanted, act))
        return make

    return keep


def request(name, *wanted, end=True):
    """A case that sends this on a request stream."""

    def keep(make):
        def act(client):
            client.begin()
            client.ask(make(), end)

        CASES.append((name, wanted, act))
        return make

    return keep


def closed(code):
    return ("connection", code)


def reset(code):
    return ("stream", code)


OK = ("answer", 200)
# What the library lets pass although the RFC names a code. Nothing comes of it: frames that are not looked at, no dynamic
# table, no pushes; and of a pseudo-header that comes twice one is forwarded, in a head that is written anew.
LENIENT = OK

for kind, name in [(DATA, "DATA"), (HEADERS, "HEADERS"), (PUSH_PROMISE, "PUSH_PROMISE"), (2, "PRIORITY of HTTP/2"),
                   (6, "PING of HTTP/2"), (8, "WINDOW_UPDATE of HTTP/2"), (9, "CONTINUATION of HTTP/2")]:
    control(f"§7: {name} on the control stream", closed(UNEXPECTED))(lambda kind=kind: frame(kind, b"\0"))
for kind, name in [(SETTINGS, "SETTINGS"), (GOAWAY, "GOAWAY"), (CANCEL_PUSH, "CANCEL_PUSH"), (MAX_PUSH_ID, "MAX_PUSH_ID"),
                   (PUSH_PROMISE, "PUSH_PROMISE"), (2, "PRIORITY of HTTP/2"), (6, "PING of HTTP/2")]:
    request(f"§7: {name} on a request stream", closed(UNEXPECTED), *[closed(SETTING)] * (kind == SETTINGS))(lambda kind=kind: frame(kind, b"\0") + head())
for setting in (2, 3, 4, 5):
    case(f"§7.2.4.1: setting {setting} of HTTP/2", closed(SETTING))(
        lambda client, setting=setting: client.begin(number(setting) + number(1)))
case("§7.2.4: a setting twice", closed(SETTING))(lambda client: client.begin((number(6) + number(1 << 20)) * 2))
case("§7.2.4: settings that are cut", closed(FRAME), closed(SETTING))(lambda client: client.begin(number(6)))
case("RFC 8441 §3: a switch that is neither 0 nor 1", LENIENT)(lambda client: client.begin(number(8) + number(2)))
control("§7.2.4: SETTINGS twice", closed(UNEXPECTED))(lambda: frame(SETTINGS))
case("§6.2.1: no SETTINGS first", closed(MISSING_SETTINGS))(lambda client: client.uni(CONTROL + frame(GOAWAY, b"\0")))
case("§6.2.1: two control streams", closed(STREAM_CREATION))(
    lambda client: (client.begin(), client.uni(CONTROL + frame(SETTINGS))))
case("§6.2.1: the control stream ends", closed(CLOSED_CRITICAL))(
    lambda client: client.uni(CONTROL + frame(SETTINGS), end=True))
case("§6.2.2: a push of a client", LENIENT)(lambda client: (client.begin(), client.uni(PUSH + b"\0")))
case("RFC 9204 §4.2: two encoder streams", closed(STREAM_CREATION))(
    lambda client: (client.begin(), client.uni(ENCODER), client.uni(ENCODER)))
case("RFC 9204 §4.2: the encoder stream ends", LENIENT)(
    lambda client: (client.begin(), client.uni(ENCODER, end=True)))
case("RFC 9204 §4.2: the decoder stream ends", LENIENT)(
    lambda client: (client.begin(), client.uni(DECODER, end=True)))
case("RFC 9204 §3.2.3: a table larger than was allowed", LENIENT)(
    lambda client: (client.begin(), client.uni(ENCODER + prefixed(0x20, 5, 1 << 20))))
case("RFC 9204 §3.2.3: an entry without a table", LENIENT)(
    lambda client: (client.begin(), client.uni(ENCODER + prefixed(0x40, 5, 1) + b"x" + b"\x01y")))
case("RFC 9204 §4.4.3: more entries than there are", LENIENT)(
    lambda client: (client.begin(), client.uni(DECODER + b"\x01")))
request("RFC 9204 §2.2: an entry that is not there", closed(DECOMPRESSION))(
    lambda: frame(HEADERS, b"\0\0" + prefixed(0x80, 6, 5)))
request("RFC 9204 §2.2: an entry that is to come", closed(DECOMPRESSION))(
    lambda: frame(HEADERS, b"\x05\0" + prefixed(0x80, 6, 0)))
request("RFC 9204 §2.2: a static entry beyond the table", closed(DECOMPRESSION))(
    lambda: frame(HEADERS, b"\0\0" + prefixed(0xC0, 6, 99)))
request("RFC 9204 §4.5: a section that is cut", closed(DECOMPRESSION))(lambda: frame(HEADERS, section(get())[:-5]))
request("§4.1: DATA first", closed(UNEXPECTED))(lambda: frame(DATA, b"x") + head())
request("§4.1: HEADERS after trailers", closed(UNEXPECTED), reset(MESSAGE))(
    lambda: posts() + head([("x-a", "1")]) + head([("x-b", "1")]))
request("§4.1: DATA after trailers", closed(UNEXPECTED), reset(MESSAGE))(
    lambda: posts() + head([("x-a", "1")]) + frame(DATA, b"x"))
request("§7.1: a frame that is cut", closed(FRAME), reset(FRAME), ("end", 0))(lambda: head()[:-3])
control("§7.1: a GOAWAY without a number", LENIENT)(lambda: frame(GOAWAY))
control("§7.1: a GOAWAY with more than a number", closed(NO_ERROR))(lambda: frame(GOAWAY, b"\0\0"))
control("§7.1: a MAX_PUSH_ID that is cut", LENIENT)(lambda: frame(MAX_PUSH_ID, b"\x40"))
control("§5.2: a GOAWAY beyond the one before", closed(ID))(lambda: frame(GOAWAY, number(4)) + frame(GOAWAY, number(8)))
control("§7.2.3: CANCEL_PUSH of no push", LENIENT)(lambda: frame(CANCEL_PUSH, number(7)))
control("§7.2.7: a MAX_PUSH_ID below the one before", LENIENT)(
    lambda: frame(MAX_PUSH_ID, number(9)) + frame(MAX_PUSH_ID, number(3)))

for name, fields in [
    ("§4.2: a name in upper case", [*get(), ("X-A", "1")]),
    ("§4.2: a name with a space", [*get(), ("x a", "1")]),
    ("§4.2: an empty name", [*get(), ("", "1")]),
    ("§4.2: a value with CR LF", [*get(), ("x-a", "1\r\nx-b: 2")]),
    ("§4.2: a value with NUL", [*get(), ("x-a", "1\0")]),
    ("§4.2: connection", [*get(), ("connection", "close")]),
    ("§4.2: transfer-encoding", [*get(), ("transfer-encoding", "chunked")]),
    ("§4.2: te", [*get(), ("te", "gzip")]),
    ("§4.3: an unknown pseudo-header", [(":unknown", "1"), *get()]),
    ("§4.3.1: no method", get()[1:]),
    ("§4.3.1: no scheme", [get()[0], *get()[2:]]),
    ("§4.3.1: no path", get()[:3]),
    ("§4.3.1: no authority", [*get()[:2], get()[3]]),
    ("§4.3.1: an empty path", get("")),
    ("§4.3.1: a path with a space", get("/a b")),
    ("§4.3.1: a path with CR LF", get("/a HTTP/1.1\r\nx: y")),
    ("§4.3.1: a method with a space", get("/", "GET /admin")),
    ("§4.3.1: a host beside another authority", [*get(), ("host", "other.example.com")]),
    ("§4.4: CONNECT with a path", get("/", "CONNECT")),
]:
    request(name, reset(MESSAGE))(lambda fields=fields: head(fields))

for name, fields in [
    ("§4.3: a pseudo-header of answers", [(":status", "200"), *get()]),
    ("§4.3: a pseudo-header behind a field", [("x-a", "1"), *get()]),
    ("§4.3.1: two methods", [(":method", "GET"), *get()]),
    ("§4.3.1: two paths", [*get(), (":path", "/name")]),
    ("§4.3.1: two authorities", [(":authority", HOST), *get()]),
]:
    request(name, LENIENT)(lambda fields=fields: head(fields))
request("§4.1.2: a body longer than its length", reset(MESSAGE))(
    lambda: posts(("content-length", "3")) + frame(DATA, b"12345"))
request("§4.1.2: a body shorter than its length", reset(MESSAGE))(
    lambda: posts(("content-length", "9")) + frame(DATA, b"12345"))
request("§4.1.2: a length and no body", reset(MESSAGE))(lambda: posts(("content-length", "9")))
request("§4.1.2: two lengths", reset(MESSAGE))(
    lambda: posts(("content-length", "5"), ("content-length", "6")) + frame(DATA, b"12345"))
request("§4.3: a pseudo-header among trailers", LENIENT)(
    lambda: posts() + frame(DATA, b"1") + head([(":path", "/")]))

request("§4.2.2: a head of 100 KiB", ("answer", 431), reset(EXCESSIVE_LOAD))(
    lambda: head([*get(), ("x-a", "a" * (100 << 10))]))
# Each byte stands for the 98 bytes of static entry 85 (RFC 9204 appendix A).
request("RFC 9204 §7.2: a bomb of references", ("answer", 431), reset(EXCESSIVE_LOAD))(
    lambda: frame(HEADERS, section(get()) + prefixed(0xC0, 6, 85) * 20_000))
request("too many fields", ("answer", 431))(lambda: head([*get(), *[("x-a", "1")] * 101]))
request("§7.1: HEADERS of a length that nobody has", reset(EXCESSIVE_LOAD), closed(EXCESSIVE_LOAD), closed(FRAME), end=False)(
    lambda: number(HEADERS) + number(1 << 40) + b"\0" * (200 << 10))
control("§7.1: SETTINGS of a length that nobody has", closed(UNEXPECTED), closed(CLOSED_CRITICAL))(
    lambda: number(SETTINGS) + number(1 << 40) + b"\0" * (200 << 10))

request("§9: unknown frames around the head", OK)(
    lambda: frame(RESERVED, b"x" * 99) + head() + frame(RESERVED + 0x1F, b""))
control("§9: unknown frames on the control stream", OK)(lambda: frame(RESERVED, b"x" * 99) * 100)
case("§9: unknown settings", OK)(lambda client: client.begin(number(RESERVED) + number(5)))
case("§9: unknown streams", OK)(
    lambda client: (client.begin(), client.uni(number(RESERVED) + b"x"), client.uni(number(RESERVED), end=True), client.uni(b"", end=True)))
case("RFC 9221 §3: datagrams, which were not offered", closed(PROTOCOL_VIOLATION))(
    lambda client: (client.begin(), [client._quic.send_datagram_frame(number(400 + at) + b"x") for at in range(50)]))


@case("CVE-2023-44487: requests that are given up", closed(EXCESSIVE_LOAD))
def rapid_reset(client):
    client.begin()
    client.passes_over_resets = True

    async def flood():
        for _ in range(50):
            for _ in range(20):
                stream = client.ask(head(get("/hold")), end=True)
                client.transmit()
                client._quic.reset_stream(stream, 0x10C)
                client._quic.stop_stream(stream, 0x10C)
            client.transmit()
            # Until the relay has taken note, and lets more streams begin.
            try:
                await client.ping()
            except ConnectionError:
                return

    client.flooding = asyncio.ensure_future(flood())


def status(data):
    """The status that an answer begins with: a static entry, or a literal that names static entry 24."""
    text = data[2 + (1 if data[1] < 0x40 else 2) + 1:]
    indexed = {63: 100, 24: 103, 25: 200, 26: 304, 27: 404, 28: 503, 64: 204, 65: 206, 67: 400, 68: 403, 69: 421, 70: 425, 71: 500}
    if text[0] >= 0xC0:
        index = text[0] & 0x3F if text[0] & 0x3F < 0x3F else 0x3F + text[1]
        return indexed.get(index)
    return 431 if b"431" in text[:8] or b"\x82\x68\x31" in text[:8] or text[0] & 0xF0 == 0x50 else None


async def one(address, port, name, wanted, act):
    configuration = QuicConfiguration(
        alpn_protocols=["h3"], server_name=HOST, verify_mode=ssl.CERT_NONE, max_datagram_frame_size=1200)
    async with connect(address, port, configuration=configuration, create_protocol=Client) as client:
        act(client)
        if wanted == (OK,) and not any(stream % 4 == 0 for stream in client._quic._streams):
            client.ask(head())
        kind, value = await client.comes()
        seen = (kind, status(value) if kind == "answer" else value)
        assert seen in wanted, (seen, value)
        if kind == "connection":
            return
        # Only that stream is lost: the next request is served.
        client.ask(head(get("/name")))
        while True:
            kind, value = await client.comes()
            assert kind != "connection", value
            if kind == "answer" and b"front" in value:
                return


async def main(address, port):
    failed = []
    for name, wanted, act in CASES:
        try:
            await asyncio.wait_for(one(address, port, name, wanted, act), PATIENCE)
            print(f"{name}: well")
        except (AssertionError, ConnectionError, asyncio.TimeoutError) as error:
            failed.append(f"{name}: {wanted}, but {error!r}")
    if failed:
        sys.exit("\n".join(failed))
    print(f"{len(CASES)} cases")


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
