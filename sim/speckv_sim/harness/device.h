// The Verilated device and its clock.
#pragma once

#include <verilated.h>

#include "Vdevice.h"
#include "support.h"

// Verilator writes the double underscore of flattened port names in its own way.
#define PORT(bundle, name) bundle##___05F##name

class Device {
public:
    explicit Device(uint64_t seed) {
        context.randReset(2);
        context.randSeed(static_cast<int>(seed % 0x7fffffff) + 1);
        ports = new Vdevice{&context, "device"};
        ports->clk = 0;
        ports->rst = 0;
        ports->touched = 0;
        ports->eval();  // Edges count from here on.
        touched = (1u << GROUPS) - 1;
    }
    ~Device() {
        ports->final();
        delete ports;
    }
    Device(const Device &) = delete;

    Vdevice *operator->() { return ports; }
    Clock now() const { return clock; }

    // Inputs that change together, as in wrapper.py: the device sees those of a group in the next `settle` after the
    // group was touched.
    enum Group { AXI_R, AXI_B, M2S_REQ, M2S_RWD, MMIO, RST, OTHERS, GROUPS };

    void touch(Group group) { touched |= 1u << group; }

    // Sets an input of `group`, if that changes it.
    template <typename Port>
    void set(Group group, Port &port, bool value) {
        if (port == value) return;
        port = value;
        touch(group);
    }

    // Outputs follow the inputs of this clock.
    void settle() {
        ports->clk = 0;
        ports->touched = touched;
        touched = 0;
        ports->eval();
    }
    // The clock edge: what was offered and ready in this clock has passed.
    void tick() {
        ports->clk = 1;
        ports->touched = 0;
        ports->eval();
        clock++;
    }

private:
    VerilatedContext context;
    Vdevice *ports;
    Clock clock = 0;
    uint32_t touched;
};
