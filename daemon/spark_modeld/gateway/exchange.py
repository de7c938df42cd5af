"""One request and its answer: who asks, for which model, does it serve, and then there and back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from spark_modeld.core.errors import SparkError
from spark_modeld.core.model import Model
from spark_modeld.face import Lease
from spark_modeld.gateway import asking
from spark_modeld.gateway.access import Visitor
from spark_modeld.gateway.answer import Answer
from spark_modeld.gateway.delivery import Delivery, Outcome
from spark_modeld.gateway.directory import entry, listing, unknown
from spark_modeld.gateway.heads import Request
from spark_modeld.gateway.house import House, Place, Wire
from spark_modeld.gateway.intake import Intake
from spark_modeld.gateway.multipart import Multipart
from spark_modeld.gateway.naming import Body, JsonFields, Opaque, Piece
from spark_modeld.gateway.record import Record
from spark_modeld.gateway.refusals import Refusal, Refused, from_problem, refused
from spark_modeld.gateway.relay import Relay
from spark_modeld.gateway.routes import Kind, Route, find
from spark_modeld.gateway.scan import JsonSpans

# A refusal that comes at once is told by its status; whoever waits longer is told that it waits.
GRACE_SECONDS = 0.25
_SMALL = 1 << 20
_NOBODY = Visitor()
_NOWHERE = Route(Kind.ADMIN, "", "")


class Exchange:
    """The life of one request, from its head to the last byte of its answer. ``wire.ended`` is called once."""

    __slots__ = (
        "_body",
        "_delivery",
        "_demand",
        "_house",
        "_intake",
        "_lease",
        "_loop",
        "_place",
        "_relay",
        "_request",
        "_scan",
        "_since",
        "_timer",
        "_wire",
        "answer",
        "over",
        "record",
        "route",
        "visitor",
    )

    def __init__(self, house: House, wire: Wire, request: Request, place: Place) -> None:
        self._house = house
        self._wire = wire
        self._request = request
        self._place = place
        self._loop = house.loop
        keep = not request.close and not house.closing
        self.answer = Answer(wire, method=request.method, http10=request.http10, keep=keep)
        self.route = _NOWHERE
        self.visitor = _NOBODY
        self.record = Record(method=request.method, path=request.path[:256])
        self.over = False
        self._since = self._loop.time()
        self._delivery = Delivery(self, self.answer, request.path, clock=self._loop.time)
        self._intake: Intake | None = None
        self._body: Body | None = None
        self._scan: JsonSpans | Multipart | None = None
        self._lease: Lease | None = None
        self._demand: asyncio.Task[Lease] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._relay: Relay | None = None

    # Before the body.

    def admit(self) -> None:
        """Everything that the head alone can be refused for. ``Refused``."""
        request = self._request
        if request.get(b"upgrade") is not None:
            raise refused(501, "not_implemented", "This gateway does not switch protocols.")
        self.route = find(request.method, request.path)
        if self.route.kind is not Kind.HEALTH:
            auth = self._house.settings.auth
            self.visitor = self._house.access.admit(request, self.route, auth=auth, loopback=self._place.loopback)
            self.record.actor = self.visitor.actor
        coding = request.get(b"content-encoding")
        if coding is not None and coding.lower() != b"identity" and self.route.kind is Kind.INFERENCE:
            raise refused(415, "unsupported_encoding", "The body has to come unencoded: its model cannot be read.")

    def refuse(self, refusal: Refusal) -> None:
        """Ends it with an error."""
        if not self.over:
            self._delivery.refuse(refusal)

    # With the body.

    def run(self, intake: Intake | None) -> None:
        """The request is complete: answers it, or asks the engine. The body is the exchange's from now on."""
        self._since = self._loop.time()
        self._intake = intake
        raw = intake.body if intake is not None else bytearray()
        try:
            if self.route.kind is Kind.INFERENCE:
                self._read(raw)
            elif self.route.kind is Kind.ADMIN:
                self._administer(raw)
            else:
                self._tell()
        except Refused as error:
            self.refuse(error.refusal)
        except SparkError as error:
            self.refuse(from_problem(error.problem))

    def _tell(self) -> None:
        snapshot = self._house.snapshot
        if self.route.kind is Kind.HEALTH:
            sound = snapshot.config_problem is None and snapshot.bus == "connected"
            status, body = (200, b'{"status":"ok"}') if sound else (503, b'{"status":"unavailable"}')
        else:
            only = self._own_model()
            if self.route.kind is Kind.MODELS:
                listed = listing(snapshot, self.visitor, only)
                status, body = 200, msgspec.json.encode({"object": "list", "data": listed})
            else:
                model = self._house.directory.find(self.route.name)
                if model is None or not self.visitor.may_use(model) or only not in (None, model):
                    raise unknown(self.route.name)
                status, body = 200, msgspec.json.encode(entry(model, snapshot))
        self.answer.whole(status, body)
        self.ended(Outcome.COMPLETE)

    def _own_model(self) -> Model | None:
        """The model that everything at this place is for."""
        return None if self._place.port is None else self._house.directory.at_port(self._place.port)

    def _read(self, raw: bytearray) -> None:
        content_type = self._request.get(b"content-type") or b""
        if not raw:
            self._named(Opaque(b""))
        elif content_type.lower().startswith(b"multipart/form-data"):
            self._scan = Multipart(raw, content_type)
            self._go_on_scanning()
        elif len(raw) <= _SMALL and (fields := JsonFields(raw)).placed:
            self._named(fields)
        else:
            self._scan = JsonSpans(raw)
            self._go_on_scanning()

    def _go_on_scanning(self) -> None:
        """A step at a time, others' turns in between."""
        if self.over or self._scan is None:
            return
        try:
            if not self._scan.advance():
                self._loop.call_soon(self._go_on_scanning)
                return
            scan, self._scan = self._scan, None
            self._named(scan)
        except Refused as error:
            self.refuse(error.refusal)
        except SparkError as error:
            self.refuse(from_problem(error.problem))

    def _named(self, body: Body) -> None:
        """The model is known: a lease on it, now or when it serves."""
        self._body = body
        model = self._own_model() or self._house.directory.find(body.model)
        if model is None:
            if self.visitor.models is not None:
                # A token for some models must not start another by naming none.
                self._check(self._house.leases.find(None))
        else:
            self._check(model)
            self.record.model = model.id
        name = model.id if model is not None else None
        lease = self._house.leases.lease(name)
        if lease is not None:
            self._granted(lease)
            return
        demand = self._house.leases.demand(name, actor=self.visitor.actor, may_switch=self.visitor.may_switch)
        self._demand = self._loop.create_task(demand, name="demand")
        self._demand.add_done_callback(self._demanded)
        if body.stream:
            self._timer = self._loop.call_later(GRACE_SECONDS, self._comment)

    def _check(self, model: Model) -> None:
        if not self.visitor.may_use(model):
            raise refused(403, "not_authorized", f"The token is not for the model {model.id!r}.", param="model")

    def _comment(self) -> None:
        self._delivery.comment()
        every = self._house.settings.loading_keepalive
        self._timer = self._loop.call_later(every, self._comment)

    def _demanded(self, demand: asyncio.Task[Lease]) -> None:
        self._demand = None
        self._stop_timer()
        if demand.cancelled():
            return
        error = demand.exception()
        if error is None and self.over:
            self._house.leases.release(demand.result())
        elif error is None:
            try:
                self._granted(demand.result())
            except Refused as refusal:
                self.refuse(refusal.refusal)
        elif isinstance(error, SparkError):
            self.refuse(from_problem(error.problem))
        else:
            self._loop.call_exception_handler({"message": "a demand", "exception": error})
            self.refuse(Refusal(status=500, code="internal", message="Something went wrong in the gateway."))

    def _granted(self, lease: Lease) -> None:
        self._lease = lease
        self.record.model = lease.model.id
        self._check(lease.model)
        assert self._body is not None
        body, self._body = self._body, None
        self._relay_to(lease.model, body.naming(lease.model.served_model_name))

    def _administer(self, raw: bytearray) -> None:
        """Anything else that the engine answers: as it is, only if a model serves; looking is not using."""
        model = self._own_model()
        if self._request.method in {"GET", "HEAD", "OPTIONS"}:
            model = self._house.serving(model.id if model is not None else None)
        else:
            self._lease = self._house.leases.lease(model.id if model is not None else None)
            model = self._lease.model if self._lease is not None else None
        if model is None:
            raise refused(503, "no_model", "No model serves now, and a path like this one starts none.", retry_after=5)
        self.record.model = model.id
        self._check(model)
        self._relay_to(model, [raw] if raw else [])

    def _relay_to(self, model: Model, pieces: Sequence[Piece]) -> None:
        origin = self._house.directory.origin(model)
        try:
            key = self._house.key(model.api_key_file) if model.api_key_file is not None else None
        except (OSError, ValueError) as error:
            raise refused(502, "model_failed", "The key that the model wants cannot be read.") from error
        target = self.route.inner + self._request.target[len(self.route.path) :]
        head = asking.head(self._request, target, origin.authority, key, pieces)
        head_only = self._request.method == "HEAD"
        self._relay = Relay(self._delivery, self._house.pool, origin, [head, *pieces], head_only=head_only)
        self._relay.start()

    # Meanwhile.

    def client_gone(self) -> None:
        """Nobody waits any more."""
        if self.over:
            return
        self.record.outcome = "client gone"
        if self._demand is not None:
            self._demand.cancel()
        self.ended(Outcome.GONE)

    def may_relay(self, relaying: bool) -> None:
        """The client takes more, or no more for now."""
        if self._relay is not None:
            self._relay.may_relay(relaying)

    def make_way(self, model: str) -> None:
        """This model is being stopped, and the time it had to finish is over."""
        if self._lease is None or self._lease.model.id != model:
            return
        message = f"The model {model} had to make way, and the time it had to finish is over; ask again."
        refusal = Refusal(status=503, code="busy", message=message, retry_after=1)
        if self._relay is not None:
            self._relay.cancel()
        self.refuse(refusal)

    def abandon(self) -> None:
        """The daemon ends: who waits is told so, and a stream that did not end in time ends with an error."""
        if self._relay is not None:
            self._relay.cancel()
        if self._demand is not None:
            self._demand.cancel()
        message = "The gateway is restarting; ask again in a moment."
        self.refuse(Refusal(status=503, code="shutting_down", message=message, retry_after=1))

    # The end.

    def begun(self) -> None:
        """Nobody needs it again, and a stream may be long."""
        self._body = None
        if self._intake is not None:
            self._intake.close()
            self._intake = None

    def flows(self) -> None:
        """The model generates, as everybody can see."""
        if self._lease is not None:
            self._house.leases.flows(self._lease)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abort(self) -> None:
        """See ``delivery.Owner``."""
        self._wire.abort()

    def ended(self, outcome: Outcome) -> None:
        """See ``delivery.Owner``. Also where nothing was delivered."""
        assert not self.over
        self.over = True
        self._stop_timer()
        self._scan = None
        self.begun()
        if self._relay is not None:
            self._relay.cancel()
        if self._lease is not None:
            lease, self._lease = self._lease, None
            self._house.leases.release(lease)
        record = self.record
        record.status = self.answer.status or (499 if outcome is Outcome.GONE else 0)
        record.total = self._loop.time() - self._since
        if self._delivery.first is not None:
            record.first_byte = self._delivery.first - self._since
        record.length = self.answer.length
        record.prompt_tokens, record.completion_tokens = self._delivery.usage.tokens
        if outcome is Outcome.BROKEN:
            record.outcome = "broken"
        # No circle is left for the garbage collector: what a request held is at hand, and warm, for the next one.
        self._relay = None
        del self._delivery
        self._house.record(record)
        self._wire.ended(self.answer.keep and outcome is not Outcome.GONE)
