// Small pieces that the harness needs everywhere.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>

using Clock = uint64_t;

// The device broke a protocol, or hangs: told to the host as text, and the end of this simulation.
struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char *format, ...) {
    char text[512];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    throw Failure(text);
}

// splitmix64
class Random {
public:
    explicit Random(uint64_t seed) : state(seed) {}
    uint64_t next() { return mix(state += 0x9e3779b97f4a7c15); }
    uint64_t below(uint64_t limit) { return next() % limit; }
    bool permille(uint32_t chance) { return chance && below(1000) < chance; }

    static uint64_t mix(uint64_t z) {
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return z ^ (z >> 31);
    }

private:
    uint64_t state;
};

// A queue of fixed size in place; the user never lets it overflow.
template <typename T, unsigned SIZE>
class Ring {
    static_assert((SIZE & (SIZE - 1)) == 0);

public:
    bool empty() const { return head == tail; }
    unsigned size() const { return tail - head; }
    T &front() { return items[head % SIZE]; }
    T &back() { return items[(tail - 1) % SIZE]; }
    T &push(const T &item) { return items[tail++ % SIZE] = item; }
    void pop() { head++; }
    void clear() { head = tail = 0; }
    template <typename Look>
    void each(Look look) {
        for (unsigned i = head; i != tail; i++) look(items[i % SIZE]);
    }

private:
    T items[SIZE];
    unsigned head = 0, tail = 0;
};

// Checks on a stream out of the device that what was offered and not accepted is offered again unchanged.
template <typename T>
class Offer {
public:
    explicit Offer(const char *name) : name(name) {}

    template <typename Read>
    void check(bool valid, bool ready, Read read) {
        if (!waiting && (!valid || ready)) return;
        if (waiting) {
            if (!valid) fail("%s: valid fell before the payload was accepted", name);
            if (!(read() == payload)) fail("%s: the payload changed before it was accepted", name);
        } else {
            payload = read();
        }
        waiting = !ready;
    }
    void clear() { waiting = false; }

private:
    const char *name;
    bool waiting = false;
    T payload{};
};
