"""gRPC through a gateway with an implementation that we did not write on both ends: grpcio.

Run by the journey tests/tests/journeys/foreign_protocols.rs: `grpc_cases.py serve` is the backend, which prints where it
listens; `grpc_cases.py ask ADDRESS PORT HOST` is the client. Messages are bare bytes. Each case that went well says so.
"""

import concurrent.futures
import sys
import threading

import grpc

# Seconds; nothing below waits for this long when all is well.
PATIENCE = 60
SERVICE = "underpass.Cases"
MEBIBYTE = 1 << 20


class Cases(grpc.GenericRpcHandler):
    """The backend's methods."""

    def __init__(self):
        self.cancelled = threading.Event()
        self.methods = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Hang": grpc.unary_unary_rpc_method_handler(self.hang),
            "WasCancelled": grpc.unary_unary_rpc_method_handler(self.was_cancelled),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Break": grpc.unary_stream_rpc_method_handler(self.breaks),
            "Join": grpc.stream_unary_rpc_method_handler(self.join),
            "Talk": grpc.stream_stream_rpc_method_handler(self.talk),
        }

    def service(self, call):
        service, _, method = call.method.strip("/").partition("/")
        return self.methods.get(method) if service == SERVICE else None

    def echo(self, message, context):
        metadata = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-")]
        context.send_initial_metadata([*metadata, ("x-first", "1")])
        context.set_trailing_metadata([("x-last", "2"), ("x-last-bin", b"\0\xff\x80")])
        return message

    def fail(self, message, context):
        context.set_trailing_metadata([("x-last", "2")])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nicht möglich: 100% \n ☹")

    def hang(self, message, context):
        over = threading.Event()
        context.add_callback(over.set)
        self.cancelled.clear()
        over.wait(PATIENCE)
        self.cancelled.set()
        return b""

    def was_cancelled(self, message, context):
        return b"yes" if self.cancelled.wait(PATIENCE) else b"no"

    def count(self, message, context):
        for at in range(int(message)):
            yield b"%d" % at

    def breaks(self, message, context):
        yield b"first"
        yield b"second"
        context.abort(grpc.StatusCode.DATA_LOSS, "no third")

    def join(self, messages, context):
        return b",".join(messages)

    def talk(self, messages, context):
        for message in messages:
            yield b"you said " + message


def backend():
    options = [("grpc.max_receive_message_length", 64 * MEBIBYTE)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(64), handlers=[Cases()], options=options)
    print("listening", server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


class Client:
    def __init__(self, address, port, host):
        options = [("grpc.default_authority", host), ("grpc.max_receive_message_length", 64 * MEBIBYTE),
                   ("grpc.enable_retries", 0)]
        self.channel = grpc.insecure_channel(f"{address}:{port}", options=options)

    def unary(self, method, service=SERVICE):
        return self.channel.unary_unary(f"/{service}/{method}")

    def failed(self, call, *arguments, **named):
        """The error that a call must end with."""
        try:
            result = call(*arguments, **named)
            for _ in result if not isinstance(result, bytes) else []:
                pass
        except grpc.RpcError as error:
            return error
        raise AssertionError("the call went well")

    def unary_of_every_size(self):
        for size in (0, 1, 1000, 70_000, 20 * MEBIBYTE):
            message = b"m" * size
            assert self.unary("Echo")(message, timeout=PATIENCE) == message

    def compressed(self):
        message = b"m" * MEBIBYTE
        assert self.unary("Echo")(message, timeout=PATIENCE, compression=grpc.Compression.Gzip) == message

    def metadata_both_ways(self):
        sent = [("x-own", "value"), ("x-own-bin", b"\0\1\xff")]
        _, call = self.unary("Echo").with_call(b"", metadata=sent, timeout=PATIENCE)
        initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
        assert (initial["x-own"], initial["x-own-bin"], initial["x-first"]) == ("value", b"\0\1\xff", "1"), initial
        assert (trailing["x-last"], trailing["x-last-bin"]) == ("2", b"\0\xff\x80"), trailing

    def an_error_with_details_and_trailers(self):
        error = self.failed(self.unary("Fail"), b"", timeout=PATIENCE)
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "nicht möglich: 100% \n ☹", error.details()
        assert dict(error.trailing_metadata())["x-last"] == "2", error.trailing_metadata()

    def streams_of_a_server(self):
        for count in (0, 1, 1000):
            call = self.channel.unary_stream(f"/{SERVICE}/Count")(b"%d" % count, timeout=PATIENCE)
            assert list(call) == [b"%d" % at for at in range(count)]

    def a_stream_that_breaks(self):
        call = self.channel.unary_stream(f"/{SERVICE}/Break")(b"", timeout=PATIENCE)
        assert (next(call), next(call)) == (b"first", b"second")
        error = self.failed(list, call)
        assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "no third"), error

    def streams_of_a_client(self):
        for count in (0, 1, 1000):
            messages = [b"%d" % at for at in range(count)]
            assert self.channel.stream_unary(f"/{SERVICE}/Join")(iter(messages), timeout=PATIENCE) == b",".join(messages)

    def a_conversation(self):
        turn, over = threading.Semaphore(0), []

        def speaks():
            for at in range(50):
                turn.acquire()
                yield b"%d" % at

        turn.release()
        for at, answer in enumerate(self.channel.stream_stream(f"/{SERVICE}/Talk")(speaks(), timeout=PATIENCE)):
            # Each answer comes before the next is said.
            assert answer == b"you said %d" % at, answer
            over.append(at)
            turn.release()
        assert len(over) == 50, over

    def a_deadline(self):
        error = self.failed(self.unary("Hang"), b"", timeout=0.3)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        assert self.unary("WasCancelled")(b"", timeout=PATIENCE) == b"yes", "the backend hears of it"

    def a_cancellation(self):
        call = self.channel.stream_stream(f"/{SERVICE}/Talk")(iter([b"a"]), timeout=PATIENCE)
        assert next(call) == b"you said a"
        hanging = self.unary("Hang").future(b"", timeout=PATIENCE)
        # Answered behind it on the same connection.
        assert self.unary("Echo")(b"x", timeout=PATIENCE) == b"x"
        hanging.cancel()
        assert hanging.cancelled() and self.unary("WasCancelled")(b"", timeout=PATIENCE) == b"yes"

    def many_at_once(self):
        calls = [self.unary("Echo").future(b"%d" % at, timeout=PATIENCE) for at in range(300)]
        assert [call.result() for call in calls] == [b"%d" % at for at in range(300)]

    def what_is_not_there(self):
        error = self.failed(self.unary("Nothing"), b"", timeout=PATIENCE)
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
        error = self.failed(self.unary("Echo", "other.Service"), b"", timeout=PATIENCE)
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED and "no route" in error.details(), error


def ask(address, port, host):
    client = Client(address, port, host)
    cases = [
        client.unary_of_every_size, client.compressed, client.metadata_both_ways,
        client.an_error_with_details_and_trailers, client.streams_of_a_server, client.a_stream_that_breaks,
        client.streams_of_a_client, client.a_conversation, client.a_deadline, client.a_cancellation, client.many_at_once,
        client.what_is_not_there,
    ]
    for case in cases:
        case()
        print(f"{case.__name__}: well", flush=True)
    print(f"{len(cases)} cases went well")


if sys.argv[1] == "serve":
    backend()
else:
    ask(sys.argv[2], int(sys.argv[3]), sys.argv[4])
