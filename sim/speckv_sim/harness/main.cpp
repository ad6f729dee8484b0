// The simulated device: clocks the Verilated RTL and a DRAM model for a host at the other end of a socket.
//
// Usage: device FD DRAM_BYTES DRAM_NOISE SEED
//   FD          an inherited stream socket (see protocol.h)
//   DRAM_BYTES  size of device DRAM
//   DRAM_NOISE  seed of what DRAM holds at first, 0 for zeros
//   SEED        of everything else that is random at the start
// Ends when the socket is closed at the other end.

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>

#include "device.h"
#include "dram.h"
#include "protocol.h"
#include "storage.h"
#include "traffic.h"

namespace {

// The other end is gone.
struct Hangup {};

class Socket {
public:
    explicit Socket(int fd) : fd(fd) {}

    void receive(void *target, size_t bytes) {
        for (char *place = static_cast<char *>(target); bytes;) {
            ssize_t n = recv(fd, place, bytes, MSG_WAITALL);
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) throw Hangup{};
            place += n, bytes -= n;
        }
    }
    void send(const void *source, size_t bytes) {
        for (const char *place = static_cast<const char *>(source); bytes;) {
            ssize_t n = ::send(fd, place, bytes, MSG_NOSIGNAL);
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) throw Hangup{};
            place += n, bytes -= n;
        }
    }

private:
    int fd;
};

class Harness {
public:
    Harness(int fd, uint64_t dram_bytes, uint64_t noise, uint64_t seed)
        : socket(fd), device(seed), storage(dram_bytes, noise), dram(device, storage, seed), traffic(device) {}

    void serve() {
        reset();
        reply(Status::OK, PROTOCOL_VERSION);
        for (;;) {
            Command command;
            socket.receive(&command, sizeof command);
            payload.resize(command.bytes);
            socket.receive(payload.data(), command.bytes);
            try {
                if (!broken.empty()) throw Failure(broken);
                execute(command);
            } catch (const Failure &failure) {
                broken = failure.what();
                reply(Status::FAILED, 0, broken.data(), broken.size());
            }
        }
    }

private:
    static constexpr unsigned RESET_CLOCKS = 4;
    static constexpr auto HEARTBEAT = std::chrono::milliseconds(400);

    Socket socket;
    Device device;
    Storage storage;
    Dram dram;
    Traffic traffic;
    std::vector<uint8_t> payload;
    std::string broken;
    std::chrono::steady_clock::time_point heard = std::chrono::steady_clock::now();

    void reply(Status status, uint64_t value = 0, const void *data = nullptr, size_t bytes = 0) {
        Reply header{status, static_cast<uint32_t>(bytes), value, device.now()};
        socket.send(&header, sizeof header);
        if (bytes) socket.send(data, bytes);
        heard = std::chrono::steady_clock::now();
    }

    // One clock; `look` sees the outputs just before its edge.
    template <typename Look>
    void step(Look look) {
        dram.drive();
        traffic.drive();
        device.settle();
        dram.sample();
        traffic.sample();
        look();
        device.tick();
        if (device.now() % 1024 == 0 && std::chrono::steady_clock::now() - heard > HEARTBEAT) reply(Status::PROGRESS);
    }
    void step() {
        step([] {});
    }

    void reset() {
        dram.reset();
        traffic.reset();
        device.set(Device::MMIO, device->PORT(mmio_request, valid), false);
        device.set(Device::MMIO, device->PORT(mmio_response, ready), false);
        device.set(Device::RST, device->rst, true);
        for (unsigned i = 0; i < RESET_CLOCKS; i++) {
            device.settle();
            device.tick();
        }
        device.set(Device::RST, device->rst, false);
    }

    // write 1, address 16, data 64
    uint64_t mmio(bool write, uint64_t address, uint64_t data) {
        auto &words = device->PORT(mmio_request, payload);
        words[0] = static_cast<uint32_t>(write | (address & 0xffff) << 1 | data << 17);
        words[1] = static_cast<uint32_t>(data >> 15);
        words[2] = static_cast<uint32_t>(data >> 47);
        device.set(Device::MMIO, device->PORT(mmio_request, valid), true);
        device.set(Device::MMIO, device->PORT(mmio_response, ready), true);
        uint64_t value = 0;
        bool accepts = false, accepted = false, answered = false;
        for (Clock begin = device.now(); !answered;) {
            if (device.now() - begin >= traffic.hang_clocks)
                fail("no progress for %llu clocks: MMIO %s of 0x%04x is not %s",
                     static_cast<unsigned long long>(traffic.hang_clocks), write ? "write" : "read",
                     static_cast<unsigned>(address), accepted ? "answered" : "accepted");
            step([&] {
                accepts = !accepted && device->PORT(mmio_request, ready);
                answered = device->PORT(mmio_response, valid);
                value = device->PORT(mmio_response, payload);
            });
            if (accepts) {
                accepted = true;
                device.set(Device::MMIO, device->PORT(mmio_request, valid), false);
            }
            if (answered && !accepted) fail("MMIO: a response without a request");
        }
        device.set(Device::MMIO, device->PORT(mmio_response, ready), false);
        return value;
    }

    void poll(const Command &c) {
        for (Clock begin = device.now();;) {
            uint64_t value = mmio(false, c.a, 0);
            if ((value & c.b) == c.c) return reply(Status::OK, value);
            if (device.now() - begin >= c.d) return reply(Status::TIMEOUT, value);
        }
    }

    void submit(const Command &c) {
        const uint64_t limit = c.a;
        if (payload.size() % sizeof(Request)) fail("SUBMIT: %zu bytes are not whole requests", payload.size());
        traffic.begin(reinterpret_cast<const Request *>(payload.data()), payload.size() / sizeof(Request));
        bool writes = c.b != 0;
        for (Clock begin = device.now(); !traffic.done() && (!limit || device.now() - begin < limit);) {
            if (writes && device.now() - begin >= c.b) mmio(true, c.c, c.d), writes = false;
            if (!traffic.done()) step();
        }
        if (writes) mmio(true, c.c, c.d);
        if (limit) reset();
        const auto &responses = traffic.results();
        reply(Status::OK, responses.size(), responses.data(), responses.size() * sizeof(Response));
    }

    void check_range(uint64_t address, uint64_t bytes) const {
        if (address > storage.size() || bytes > storage.size() - address) fail("DRAM has no such bytes");
    }

    void read_dram(uint64_t address, uint64_t bytes) {
        check_range(address, bytes);
        std::vector<uint8_t> data;
        data.reserve(bytes);
        storage.pieces(address, bytes, [&](const uint8_t *place, uint64_t count) {
            data.insert(data.end(), place, place + count);
        });
        reply(Status::OK, bytes, data.data(), bytes);
    }

    void write_dram(uint64_t address) {
        check_range(address, payload.size());
        const uint8_t *source = payload.data();
        storage.pieces(address, payload.size(), [&](uint8_t *place, uint64_t count) {
            memcpy(place, source, count);
            source += count;
        });
        reply(Status::OK);
    }

    void set(Setting setting, uint64_t value) {
        switch (setting) {
            case Setting::DRAM_LATENCY: dram.latency = value; break;
            case Setting::DRAM_JITTER: dram.jitter = value; break;
            case Setting::DRAM_BYTES_PER_CLOCK: dram.bytes_per_clock = value; break;
            case Setting::IN_FLIGHT: traffic.in_flight = value; break;
            case Setting::IDLE: traffic.idle = value; break;
            case Setting::STALL: traffic.stall = value; break;
            case Setting::HANG_CLOCKS: traffic.hang_clocks = value; break;
            case Setting::SEED: traffic.seed(value); dram.seed(value); break;
            default: fail("SET: unknown setting %llu", static_cast<unsigned long long>(setting));
        }
        reply(Status::OK);
    }

    void execute(const Command &c) {
        switch (c.op) {
            case Op::RESET: reset(); return reply(Status::OK);
            case Op::RUN:
                for (uint64_t i = 0; i < c.a; i++) step();
                return reply(Status::OK);
            case Op::MMIO_READ: return reply(Status::OK, mmio(false, c.a, 0));
            case Op::MMIO_WRITE: mmio(true, c.a, c.b); return reply(Status::OK);
            case Op::MMIO_POLL: return poll(c);
            case Op::SUBMIT: return submit(c);
            case Op::DRAM_READ: return read_dram(c.a, c.b);
            case Op::DRAM_WRITE: return write_dram(c.a);
            case Op::DRAM_FAIL: dram.fail_lines(c.a, c.b, c.c & 1, c.c & 2, c.d); return reply(Status::OK);
            case Op::DRAM_HEAL: dram.heal(); return reply(Status::OK);
            case Op::SET: return set(static_cast<Setting>(c.a), c.b);
            case Op::DRAM_COUNTS: {
                auto counts = dram.count_from(c.a);
                return reply(Status::OK, 0, counts.data(), sizeof counts);
            }
        }
        fail("unknown command %u", static_cast<unsigned>(c.op));
    }
};

}  // namespace

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: %s FD DRAM_BYTES DRAM_NOISE SEED\n", argv[0]);
        return 2;
    }
    signal(SIGINT, SIG_IGN);  // Ctrl-C is for the host, which then closes the socket.
    auto number = [&](int i) { return strtoull(argv[i], nullptr, 0); };
    try {
        auto harness = std::make_unique<Harness>(static_cast<int>(number(1)), number(2), number(3), number(4));
        harness->serve();
    } catch (const Hangup &) {
        return 0;
    } catch (const std::exception &error) {
        fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
