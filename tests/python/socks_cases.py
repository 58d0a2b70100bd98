"""An agent's SOCKS5 and HTTP CONNECT proxies, used by a client that we did not write: PySocks.

Run by the journey tests/tests/journeys/outbound_clients.rs: `socks_cases.py PROXY_PORT HOST PORT FREE_PORT USER PASSWORD`.
Each case that went well says so.
"""

import sys

import socks

# Seconds; nothing below waits for this long when all is well.
PATIENCE = 60


def connected(kind, proxy, target, by_name=True, login=(None, None)):
    stream = socks.socksocket()
    stream.settimeout(PATIENCE)
    stream.set_proxy(kind, "127.0.0.1", proxy, rdns=by_name, username=login[0], password=login[1])
    stream.connect(target)
    return stream


def fetch(stream):
    stream.sendall(b"GET /name HTTP/1.1\r\nhost: office\r\nconnection: close\r\n\r\n")
    answer = b""
    while piece := stream.recv(65536):
        answer += piece
    return answer.rpartition(b"\r\n\r\n")[2].decode()


def refused(words, *arguments, **named):
    try:
        connected(*arguments, **named)
    except socks.ProxyError as error:
        assert words in str(error), f"{words!r} in {error}"
    else:
        raise AssertionError(f"{words!r} was expected")


def main():
    proxy, host, port, free, user, password = sys.argv[1:]
    proxy, target, login = int(proxy), (host, int(port)), (user, password)
    for kind, name in [(socks.SOCKS5, "SOCKS5"), (socks.HTTP, "HTTP")]:
        assert fetch(connected(kind, proxy, target, login=login)) == "office"
        print(f"{name} ok")
    assert fetch(connected(socks.SOCKS5, proxy, target, by_name=False, login=login)) == "office"
    print("address ok")
    refused("authentication failed", socks.SOCKS5, proxy, target, login=(user, password + "x"))
    refused("All offered SOCKS5 authentication methods were rejected", socks.SOCKS5, proxy, target)
    refused("407", socks.HTTP, proxy, target, login=(user, password + "x"))
    print("authentication ok")
    refused("0x05: Connection refused", socks.SOCKS5, proxy, (host, int(free)), login=login)
    refused("0x02: Connection not allowed by ruleset", socks.SOCKS5, proxy, ("169.254.169.254", 80), login=login)
    refused("0x04: Host unreachable", socks.SOCKS5, proxy, ("no-such-host.invalid", 80), login=login)
    refused("502", socks.HTTP, proxy, (host, int(free)), login=login)
    print("refusals ok")


main()
