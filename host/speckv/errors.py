"""Everything that the driver and its links raise beside `TypeError` and `ValueError`."""


class SpeckvError(Exception):
    """Base of all errors below."""


class LinkError(SpeckvError):
    """The link or the device broke its protocol; the link cannot be used any more."""


class LinkClosed(LinkError):
    """The link was closed."""


class LinkTimeout(LinkError):
    """No answer in the time allowed."""


class SimulationDied(LinkError):
    """The process of the simulated device ended on its own.

    Parameters
    ----------
    exit_code : int
        Its exit code; negative: number of the signal that ended it.
    stderr : str
        Last lines that it wrote to standard error.
    """

    def __init__(self, exit_code, stderr=""):
        self.exit_code = exit_code
        self.stderr = stderr
        ending = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
        super().__init__(f"the simulated device died with {ending}" + (f":\n{stderr}" if stderr else ""))

    def __reduce__(self):
        return type(self), (self.exit_code, self.stderr)


# What the driver refuses or reports
class ShapeError(SpeckvError, ValueError):
    """An array's shape is not what the context holds."""


class DtypeError(SpeckvError, TypeError):
    """An array's dtype is not what the context holds, or no dtype that a context can hold."""


class AddressError(SpeckvError, IndexError):
    """A layer, token or byte address that does not exist.

    Parameters
    ----------
    message : str
    addresses : sequence of int
        The byte addresses concerned, where there are any.
    """

    def __init__(self, message, addresses=()):
        self.addresses = list(addresses)
        super().__init__(message)


class WindowFull(SpeckvError):
    """No free range of the address window holds a context.

    Parameters
    ----------
    asked, available, free : int
        Pages asked for, pages of the largest free range, pages free in all.
    """

    def __init__(self, asked, available, free):
        self.asked, self.available, self.free = asked, available, free
        super().__init__(
            f"a context of {asked} pages does not fit: the largest free range of the address window has "
            f"{available} pages ({free} are free in all); free another context or ask for fewer tokens"
        )


class TooManyContexts(SpeckvError):
    """All context numbers of the device are taken."""


class UnknownCodec(SpeckvError, ValueError):
    """The device does not have the codec.

    Parameters
    ----------
    codec : object
        What was asked for.
    available : sequence of str
        Codecs that the device has.
    """

    def __init__(self, codec, available):
        self.codec, self.available = codec, tuple(available)
        super().__init__(
            f"codec must be one that the device has ({', '.join(self.available)}), not {codec!r}"
        )


class DescriptorsFull(SpeckvError):
    """The device has no free range of stream descriptors that is long enough.

    Parameters
    ----------
    asked, available, free : int
        Descriptors asked for, those of the largest free range, those free in all.
    """

    def __init__(self, asked, available, free):
        self.asked, self.available, self.free = asked, available, free
        super().__init__(
            f"{asked} stream descriptors do not fit: the largest free range of the device's table has {available} "
            f"({free} are free in all); free a DescriptorSet, share one between contexts, or use one codec for all "
            "streams"
        )


class DescriptorsFreed(SpeckvError):
    """The stream descriptors were freed, or are not of this device."""


class DescriptorsInUse(SpeckvError):
    """Contexts use the stream descriptors."""


class ContextFreed(SpeckvError):
    """The context was freed, or its device was closed."""


class ContextsLost(SpeckvError):
    """The device was reset: contexts are gone, with all that they held, and so are stream descriptors.

    Parameters
    ----------
    contexts : sequence of Context
        What the driver knew of when it noticed.
    """

    def __init__(self, contexts):
        self.contexts = tuple(contexts)
        named = ", ".join(map(repr, self.contexts)) or "none"
        super().__init__(
            f"the device was reset, and what it held is lost; contexts concerned: {named}; call Device.recover(), then "
            "create them again and write what they held"
        )

    def __reduce__(self):
        # Contexts belong to a process and its device.
        return type(self), ((),)


class PoisonError(SpeckvError):
    """The device answered with poison: the content is lost, not wrong.

    Parameters
    ----------
    message : str
    addresses : sequence of int
        Byte addresses of the lines concerned.
    tokens : sequence of (layer, head, kind, first token, last token + 1)
        What they hold, where a context was read; kind is "k" or "v".
    """

    def __init__(self, message, addresses=(), tokens=()):
        self.addresses, self.tokens = list(addresses), list(tokens)
        super().__init__(message)


class CommandError(SpeckvError):
    """A command ended with a status other than OK.

    Parameters
    ----------
    opcode : Opcode or int
    status : Status or int
    fields : dict
        Fields of the command.
    """

    def __init__(self, opcode, status, fields):
        self.opcode, self.status, self.fields = opcode, status, dict(fields)
        shown = ", ".join(f"{name} {int(value)}" for name, value in fields.items() if name != "opcode")
        super().__init__(f"command {getattr(opcode, 'name', opcode)} ({shown}) ended with status "
                         f"{getattr(status, 'name', status)}")


class DeviceMismatch(SpeckvError):
    """The device is not one of this design, or not built with the configuration expected."""
