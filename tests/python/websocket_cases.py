"""WebSockets through a gateway with an implementation that we did not write on both ends: the package websockets, and
frames by hand for what it would not send. The cases follow the groups of the Autobahn test suite (RFC 6455, RFC 7692).

Run by the journey tests/tests/journeys/foreign_protocols.rs: `websocket_cases.py serve` is the backend, which echoes and
prints where it listens; `websocket_cases.py ask ADDRESS PORT HOST` is the client. Each case that went well says so.
"""

import asyncio
import os
import struct
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

# Seconds; nothing below waits for this long when all is well.
PATIENCE = 60
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN = 0x80
# RFC 6455 §7.4.1.
NORMAL, PROTOCOL_ERROR, INVALID_DATA = 1000, 1002, 1007
MEBIBYTE = 1 << 20


async def echo(socket):
    try:
        async for message in socket:
            await socket.send(message)
    except ConnectionClosed:
        pass


async def backend():
    def plain(connection, request):
        # What tells the harness that the route is served.
        return connection.respond(200, "front") if request.path == "/name" else None

    async with serve(echo, "127.0.0.1", 0, process_request=plain, max_size=None) as server:
        print("listening", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


def frame(first, payload=b""):
    """A client's frame, under a mask (RFC 6455 §5.2)."""
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", first, 0x80 | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, length)
    mask = os.urandom(4)
    whole = (mask * (length // 4 + 1))[:length]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(length, "big")
    return head + mask + masked


class Bare:
    """A connection whose frames are ours."""

    @classmethod
    async def open(cls, address, port, host):
        self = cls()
        self.reader, self.writer = await asyncio.open_connection(address, port)
        self.writer.write((
            f"GET /echo HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 101") and "s3pplmbitxaq9kygzzhzrbk+xoo=" in head, head
        return self

    async def next(self):
        first, length = await self.reader.readexactly(2)
        if length == 126:
            (length,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first, await self.reader.readexactly(length)

    async def ends(self, code):
        """The backend closes with this code, and the connection ends."""
        while (got := await self.next())[0] != FIN | CLOSE:
            pass
        seen = struct.unpack("!H", got[1][:2])[0] if got[1] else None
        assert seen == code, (seen, got)
        self.writer.write(frame(FIN | CLOSE, got[1][:2]))
        assert await self.reader.read() == b"", "nothing follows"


async def messages(address, port, host, name, compression):
    """Groups 1, 9 and 12: messages of every length class, each way."""
    async with connect(f"ws://{host}/echo", host=address, port=port, compression=compression, max_size=None) as socket:
        chosen = [type(one).__name__ for one in socket.protocol.extensions]
        assert chosen == (["PerMessageDeflate"] if compression else []), chosen
        for size in (0, 1, 125, 126, 127, 128, 65535, 65536, 65537, MEBIBYTE, 8 * MEBIBYTE):
            binary, text = os.urandom(size), "é€😀a"[: size % 4] * (size // 4) + "z" * (size % 4)
            for message in (binary, text):
                await socket.send(message)
                assert await socket.recv() == message, (name, size)
        for part in range(500):
            await socket.send(f"message {part}")
        for part in range(500):
            assert await socket.recv() == f"message {part}"
        # Fragments, each flushed by itself (group 5).
        await socket.send(f"part {part} " for part in range(100))
        assert await socket.recv() == "".join(f"part {part} " for part in range(100))
        await (await socket.ping(b"p" * 125))
    assert socket.close_code == NORMAL, socket.close_code


# What is sent by hand, and the frames that come back before the end with the code, if it ends.
BARE = {
    "2: pings of every length": ([frame(FIN | PING, b"p" * size) for size in (0, 1, 125)],
                                 [(FIN | PONG, b"p" * size) for size in (0, 1, 125)], None),
    "2: a ping that is too long": ([frame(FIN | PING, b"p" * 126)], [], PROTOCOL_ERROR),
    "2: a pong that nobody asked for": ([frame(FIN | PONG, b"x"), frame(FIN | TEXT, b"a")], [(FIN | TEXT, b"a")], None),
    "3: a reserved bit": ([frame(FIN | 0x40 | TEXT, b"a")], [], PROTOCOL_ERROR),
    "3: another behind a message": ([frame(FIN | TEXT, b"a"), frame(FIN | 0x10 | TEXT, b"b")], [], PROTOCOL_ERROR),
    "4: an unknown data frame": ([frame(FIN | 3)], [], PROTOCOL_ERROR),
    "4: an unknown control frame": ([frame(FIN | 11)], [], PROTOCOL_ERROR),
    "5: fragments": ([frame(TEXT, b"a"), frame(CONTINUATION, b"b"), frame(FIN | CONTINUATION, b"c")], [(FIN | TEXT, b"abc")], None),
    "5: a ping among fragments": ([frame(TEXT, b"a"), frame(FIN | PING, b"p"), frame(FIN | CONTINUATION, b"c")],
                                  [(FIN | PONG, b"p"), (FIN | TEXT, b"ac")], None),
    "5: a ping in fragments": ([frame(PING, b"a"), frame(FIN | CONTINUATION, b"b")], [], PROTOCOL_ERROR),
    "5: a continuation of nothing": ([frame(FIN | CONTINUATION, b"a")], [], PROTOCOL_ERROR),
    "5: a message within another": ([frame(TEXT, b"a"), frame(FIN | TEXT, b"b")], [], PROTOCOL_ERROR),
    "6: a character in two fragments": ([frame(TEXT, b"\xe2\x82"), frame(FIN | CONTINUATION, b"\xac")], [(FIN | TEXT, "€".encode())], None),
    "6: a surrogate": ([frame(FIN | TEXT, b"\xed\xa0\x80")], [], INVALID_DATA),
    "6: an overlong character": ([frame(FIN | TEXT, b"\xc0\xaf")], [], INVALID_DATA),
    "6: a character that is cut": ([frame(FIN | TEXT, b"\xe2\x82")], [], INVALID_DATA),
    "7: a close without a code": ([frame(FIN | CLOSE)], [(FIN | CLOSE, b"")], None),
    "7: a close of one byte": ([frame(FIN | CLOSE, b"\x03")], [], PROTOCOL_ERROR),
    "7: a close that is too long": ([frame(FIN | CLOSE, struct.pack("!H", 1000) + b"r" * 124)], [], PROTOCOL_ERROR),
    "7: a close with a reason that is no text": ([frame(FIN | CLOSE, struct.pack("!H", 1000) + b"\xff")], [], INVALID_DATA),
    "a frame without a mask": ([b"\x81\x01a"], [], PROTOCOL_ERROR),
}
for code in (1000, 1001, 1003, 1007, 1011, 3000, 4999):
    closing = struct.pack("!H", code) + b"a reason"
    BARE[f"7: closed with {code}"] = ([frame(FIN | CLOSE, closing)], [(FIN | CLOSE, closing)], None)
for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000):
    BARE[f"7: closed with {code}, which is no code"] = ([frame(FIN | CLOSE, struct.pack("!H", code))], [], PROTOCOL_ERROR)


async def bare(address, port, host, sent, wanted, code, cut):
    socket = await Bare.open(address, port, host)
    data = b"".join(sent)
    # Whole, or byte by byte: what a frame means does not hang on how it comes.
    for part in [data] if not cut else [data[at : at + 1] for at in range(len(data))]:
        socket.writer.write(part)
        if cut:
            await socket.writer.drain()
    for one in wanted:
        seen = await socket.next()
        assert seen == one, (seen, one)
    if code is not None:
        await socket.ends(code)
    socket.writer.close()


async def ask(address, port, host):
    failed, well = [], 0

    async def case(name, coroutine):
        nonlocal well
        try:
            await asyncio.wait_for(coroutine, PATIENCE)
            well += 1
        except (AssertionError, OSError, EOFError, ConnectionClosed, asyncio.TimeoutError) as error:
            failed.append(f"{name}: {error!r}")

    await case("1, 9: messages", messages(address, port, host, "as they are", None))
    await case("12: messages that are packed", messages(address, port, host, "packed", "deflate"))
    for name, (sent, wanted, code) in BARE.items():
        for cut in (False, True):
            await case(name, bare(address, port, host, sent, wanted, code, cut))
    if failed:
        sys.exit("\n".join(failed))
    print(f"{well} cases went well")


if sys.argv[1] == "serve":
    asyncio.run(backend())
else:
    asyncio.run(ask(sys.argv[2], int(sys.argv[3]), sys.argv[4]))
