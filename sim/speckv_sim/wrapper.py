"""The module around the device that the harness clocks: inputs reach the device when the harness says so.

Verilator evaluates all logic behind the inputs of its top module at every call, twice in a clock, whether
they change or not; and behind `rst` is most of a synchronous design. Behind registers that are clocked only
when the harness has touched an input, that logic costs nothing in the other clocks.
"""

from speckv_hw.generate import NAME, ports_of

TOP = "simulated"
GROUPS = ("axi__r", "axi__b", "m2s_req", "m2s_rwd", "mmio", "rst", "")
"""What names of inputs start with that change together, in the order of `Device::Group` in the harness."""


def wrapper_of(verilog):
    """Verilog of the module `TOP` around the device in the text `verilog`.

    It has the ports of the device, and `touched`: where bit g rises, the inputs of group g are taken over.
    """
    declarations, registers, connections = [f"input [{len(GROUPS) - 1}:0] touched"], [], []
    for port in ports_of(verilog):
        name, vector = port["name"], f"[{port['width'] - 1}:0]"
        declarations.append(f"{port['direction']} {vector} {name}")
        if port["direction"] == "output" or name == "clk":
            connections.append(f".{name}({name})")
            continue
        group = next(number for number, prefix in enumerate(GROUPS) if name.startswith(prefix))
        taken = f"taken_{name}"
        registers.append(f"reg {vector} {taken}; always @(posedge touched[{group}]) {taken} <= {name};")
        connections.append(f".{name}({taken})")
    return "\n".join([f"module {TOP}({', '.join(declarations)});", *registers,
                      f"{NAME} device({', '.join(connections)});", "endmodule", ""])
