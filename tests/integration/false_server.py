"""Servers that are not tmkd: one alone, and one in the middle of a terminal and tmkd."""

import contextlib
import os
import socket
import threading

import certificates
import crypto
import wire


class Steps:
    """The server's steps from design section 5, for one terminal. A test spoils what they give."""

    def __init__(self, prks, chain, tkp_pu, kind="aes128", tmk=None, version=1, digest="sha1"):
        self.prks = prks
        self.chain = chain  # cryptography certificates, leaf first
        self.tkp_pu = tkp_pu
        self.kind = kind
        self.tmk = tmk or os.urandom(crypto.KEY_SIZES[kind])
        self.version = version
        self.digest = digest
        self.kcv = crypto.kcv(kind, self.tmk)
        self.signer = prks  # by whom C1 is

    def take_hello(self, der):
        name, hello = wire.decode(der)
        assert name == "hello"
        self.rnd1 = hello["rnd1"].native
        self.hello_der = hello.dump()

    def make_delivery(self):
        self.delivery = wire.Delivery(
            {
                "ctmk": crypto.wrap_tmk(self.tkp_pu, self.tmk, self.digest),
                "transport": wire.Transport.load(wire.TRANSPORT_DER[self.digest]),
                "tmk": {"type": self.kind, "version": self.version, "kcv": self.kcv},
            }
        )
        return wire.encode_value("delivery", self.delivery)

    def challenge(self):
        """S303. The Delivery exists from here on."""
        self.delivery_message = self.make_delivery()
        tbs = wire.ChallengeTBS(
            {
                "rnd2": os.urandom(32),
                "deliveryDigest": crypto.sha256(self.delivery.dump()),
                "kswcrt": [certificates.for_wire(c) for c in self.chain],
            }
        )
        self.rnd2 = tbs["rnd2"].native
        self.h = crypto.transcript(self.hello_der, tbs.dump())
        c1 = crypto.make_c1(self.signer, crypto.m1(self.rnd1, self.h))
        return wire.encode("challenge", tbs=tbs, c1=c1)

    def proof_holds(self, der):
        name, proof = wire.decode(der)
        assert name == "proof"
        return proof["c2"].native == crypto.c2(self.tkp_pu, self.rnd2, self.h)

    def confirm_holds(self, der):
        name, confirm = wire.decode(der)
        assert name == "confirm"
        digest = crypto.sha256(self.delivery.dump())
        return confirm["mac"].native == crypto.confirm_mac(self.kind, self.tmk, self.h, digest)

    def serve(self, link):
        """One honest download; whether the terminal confirmed it."""
        self.take_hello(link.receive())
        link.send(self.challenge())
        if not self.proof_holds(link.receive()):
            link.send(wire.encode("failure", code="rejected"))
            return False
        link.send(self.delivery_message)
        confirmed = self.confirm_holds(link.receive())
        if confirmed:
            link.send(wire.encode("done", version=self.version))
        return confirmed


class Listener:
    """Accepts on a free port and gives each connection to handle(link), one thread each."""

    def __init__(self, handle):
        self.handle = handle
        self.results = []  # what handle() gave, or the Closed that ended it
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        self.threads = []
        self.acceptor = threading.Thread(target=self._accept)
        self.acceptor.start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                thread = threading.Thread(target=self._serve, args=[connection])
                thread.start()
                self.threads.append(thread)

    def _serve(self, connection):
        with wire.Link(connection) as link:
            try:
                self.results.append(self.handle(link))
            except (wire.Closed, OSError) as error:
                self.results.append(error)

    def close(self):
        """Waits for the handlers; self.results is complete afterwards."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.acceptor.join()
        for thread in self.threads:
            thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Middle(Listener):
    """Passes frames between a terminal and the server, each through rewrite(name, message)."""

    def __init__(self, upstream, rewrite):
        self.upstream = upstream
        self.rewrite = rewrite
        super().__init__(self._pass_on)

    def _pass_on(self, terminal):
        """The protocol is strictly in turns, so one thread does."""
        seen = []
        with wire.Link.connect(self.upstream) as server:
            with contextlib.suppress(wire.Closed, OSError):
                while True:
                    for source, target in ((terminal, server), (server, terminal)):
                        message = source.receive()
                        name = wire.decode(message)[0]
                        seen.append(name)
                        target.send(self.rewrite(name, message))
        return seen
