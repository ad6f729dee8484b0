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
        ports->rst = 1;
        ports->eval();
    }
    ~Device() {
        ports->final();
        delete ports;
    }
    Device(const Device &) = delete;

    Vdevice *operator->() { return ports; }
    Clock now() const { return clock; }

    // Outputs follow the inputs of this clock.
    void settle() {
        ports->clk = 0;
        ports->eval();
    }
    // The clock edge: what was offered and ready in this clock has passed.
    void tick() {
        ports->clk = 1;
        ports->eval();
        clock++;
    }

private:
    VerilatedContext context;
    Vdevice *ports;
    Clock clock = 0;
};
