"""What the command engine talks to, with random delays; and the same for its model.

Both keep a `log` of everything that they were asked to change, in order, so that the two can be compared.
"""

import random

from amaranth.hdl import Const

from speckv_hw.csr.page_op import PageOpKind
from speckv_hw.table.context import ContextOpKind
from speckv_hw.table.descriptor import DescriptorOpKind
from speckv_hw.types import TableFault, TableOp
from speckv_model.constants import Codec, Dtype, Status
from speckv_model.table.context import ContextRecord, ContextTable

RECORD_FIELDS = ("ld_id", "first_page", "pages", "index_bits", "head_bits", "layer_bits", "dtype", "codec",
                 "by_row")


def number(value):
    """A field of a struct constant as an int, enumeration or not."""
    return int(value if isinstance(value, int) else value.value)


def unpack_record(record, rule):
    """The model's record of a hardware `record` and the context's `EncodingRule`, None if the record is not valid."""
    if not record.valid:
        return None
    values = {name: number(record[name]) for name in RECORD_FIELDS}
    assert (rule.first_page, rule.index_bits) == (record.first_page, record.index_bits)
    return ContextRecord(**values | {
        "dtype": Dtype(values["dtype"]), "codec": Codec(values["codec"]), "by_row": bool(values["by_row"]),
        "setting": rule.setting, "per_stream": bool(rule.per_stream), "descriptor_base": rule.base})


def pack_record(record):
    """The hardware's record of the model's `record`: dictionary."""
    if record is None:
        return {"valid": 0}
    return {"valid": 1} | {name: int(getattr(record, name)) for name in RECORD_FIELDS}


class BadPages:
    """Which pages fail: a set, with the status that they answer."""

    def __init__(self, pages=()):
        self.pages = set(pages)

    def page_status(self, page):
        return Status.MEMORY_ERROR if page in self.pages else Status.OK

    def range_status(self, page, count):
        return Status.MEMORY_ERROR if self.pages & set(range(page, page + count)) else Status.OK


class LoggedContexts(ContextTable):
    """The model's context table, logging changes."""

    def __init__(self, config, log):
        super().__init__(config)
        self._log = log

    def put(self, context, record):
        self._log.append(("put", context, record))
        super().put(context, record)

    def put_slot(self, slot, context):
        self._log.append(("slot", slot, context))
        super().put_slot(slot, context)


class ModelDevice:
    """`device_ops` of the model, logging what is asked."""

    def __init__(self, config, bad, log):
        self._config = config
        self._bad = bad
        self._log = log

    def clear_table(self, page, count):
        self._log.append(("clear", page, count))
        return self._bad.range_status(page, count)

    def load_descriptors(self, first, count, encoding):
        self._log += [("load", descriptor, *encoding) for descriptor in range(first, first + count)]

    def page_op(self, kind, page, context, record):
        self._log.append(("page", int(kind), page, context, record.codec, record.dtype))
        return self._bad.page_status(page)

    def free_sectors(self):
        return self._config.pool_sectors


class Responders:
    """Background testbenches that answer a `CommandEngine`: context, descriptor and page table, page cache.

    `reset` is the reset of the engine, which makes them forget what they were asked.
    """

    def __init__(self, config, engine, bad, log, seed, delay=0.5, reset=None):
        self.contexts = LoggedContexts(config, log)
        self._rules = {}
        self._engine = engine
        self._bad = bad
        self._log = log
        self._seed = seed
        self._delay = delay
        self._reset = Const(0) if reset is None else reset

    @property
    def testbenches(self):
        """The testbenches; they never end."""
        return [self._server(self._engine.manage, self._engine.managed, self._manage), *self.page_testbenches]

    @property
    def page_testbenches(self):
        """Those of the descriptor table, the page table and the page cache alone."""
        engine = self._engine
        return [self._descriptors,
                self._server(engine.table_request, engine.table_response, self._table),
                self._server(engine.page_op, engine.page_op_done, self._page_op)]

    def _server(self, request, reply, answer):
        rng = random.Random(f"{answer.__name__} {self._seed}")

        async def testbench(ctx):
            while True:
                while rng.random() < self._delay:
                    await ctx.tick()
                ctx.set(request.ready, 1)
                [payload] = await ctx.tick().sample(request.payload).until(request.valid)
                ctx.set(request.ready, 0)
                ctx.set(reply.payload, answer(payload))
                while rng.random() < self._delay:
                    await ctx.tick()
                ctx.set(reply.valid, 1)
                await ctx.tick().until(reply.ready | self._reset)
                ctx.set(reply.valid, 0)
        return testbench

    async def _descriptors(self, ctx):
        rng = random.Random(f"descriptors {self._seed}")
        while True:
            while rng.random() < self._delay:
                await ctx.tick()
            ctx.set(self._engine.descriptor_op.ready, 1)
            [op] = await ctx.tick().sample(self._engine.descriptor_op.payload).until(self._engine.descriptor_op.valid)
            ctx.set(self._engine.descriptor_op.ready, 0)
            if op.kind == DescriptorOpKind.RULE:
                self._rules[op.number] = op.rule
            else:
                self._log.append(("load", op.number, number(op.encoding.codec), op.encoding.setting))

    def _manage(self, op):
        match op.kind:
            case ContextOpKind.GET:
                return {"record": pack_record(self.contexts.record(op.context))}
            case ContextOpKind.PUT:
                self.contexts.put(op.context, unpack_record(op.record, self._rules.get(op.context)))
            case ContextOpKind.GET_SLOT:
                owner = self.contexts.slot(op.slot)
                return {"valid": owner is not None, "context": owner or 0}
            case ContextOpKind.PUT_SLOT:
                self.contexts.put_slot(op.slot, op.context if op.valid else None)
        return {}

    def _table(self, request):
        assert request.op == TableOp.CLEAR
        self._log.append(("clear", request.page, request.count))
        bad = self._bad.range_status(request.page, request.count) != Status.OK
        return {"fault": TableFault.MEMORY if bad else TableFault.NONE}

    def _page_op(self, op):
        stream = op.stream
        self._log.append(("page", PageOpKind(op.kind).value, op.page, stream.context, number(stream.codec),
                          number(stream.dtype)))
        return {"status": int(self._bad.page_status(op.page))}


def random_command(rng, config):
    """Fields of a command that is often legal: contexts and ranges are few, mistakes of every kind occur."""
    granule, window = config.granule_pages, config.window_pages
    opcode = rng.choice([*range(11), 255] + 4 * [1] + 2 * [2, 3, 4, 5, 8, 9])
    first = rng.randrange(4) * granule
    pages = granule * rng.choice([1, 1, 2])
    if opcode not in (1, 2):
        first, pages = first + rng.randrange(granule), rng.randrange(1, 5)
    command = dict(opcode=opcode, context=rng.randrange(3), tag=rng.getrandbits(16),
                   first_page=first, pages=pages, index_bits=rng.randrange(granule.bit_length()),
                   head_bits=rng.randrange(8), layer_bits=rng.randrange(8), dtype=rng.randrange(2),
                   codec=rng.randrange(2), setting=0, per_stream=rng.randrange(2), by_row=rng.randrange(2),
                   ld_id=rng.randrange(16),
                   descriptor_base=rng.randrange(config.descriptors), descriptor=rng.randrange(config.descriptors))
    mistakes = dict(setting=[1, 128], descriptor=[config.descriptors, 0xFFFF], descriptor_base=[config.descriptors],
                    context=[config.contexts, config.contexts + 1, 4095], codec=[2, 7],
                    first_page=[first + 1, window - granule, window],
                    pages=[0, pages + 1, 2 * window, window],
                    index_bits=[31, 20], head_bits=[31, 27], layer_bits=[31])
    if rng.random() < 0.2:
        name = rng.choice([*mistakes, "codec", "index_bits"])
        command[name] = rng.choice(mistakes[name]) % (1 << (12 if name == "context" else 29))
    return command
