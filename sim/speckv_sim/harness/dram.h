// Device DRAM behind the AXI4 port: an in-order controller for each id, with a latency and a bandwidth.
//
// A write becomes visible to reads in the clock in which its B is offered, and not before; a read takes its data when
// its R is offered. So a device that relies on more order than AXI4 gives reads old data.
#pragma once

#include <array>
#include <cstring>
#include <vector>

#include "device.h"
#include "protocol.h"
#include "storage.h"

class Dram {
public:
    Dram(Device &device, Storage &storage, uint64_t seed) : device(device), storage(storage), random(seed) {
        for (unsigned i = 0; i < BURSTS; i++) free_buffers.push(i);
    }

    void seed(uint64_t seed) { random = Random(seed); }

    uint32_t latency = 100, jitter = 0, bytes_per_clock = 64;

    // Before Device::settle.
    void drive() {
        tokens = std::min(tokens + bytes_per_clock, 63 + bytes_per_clock);
        drive_reads();
        drive_writes();
        drive_completions();
    }
    // After Device::settle, before the clock edge.
    void sample() {
        sample_reads();
        sample_writes();
    }
    // Forgets what is in flight; data that was accepted as a whole is kept.
    void reset() {
        while (write_mask) retire_write(earliest(writes, write_mask));
        while (!open_writes.empty()) {
            free_buffers.push(open_writes.front().buffer);
            open_writes.pop();
        }
        for (auto &queue : reads) queue.clear();
        read_mask = reads_held = writes_held = 0;
        reading = r_offered = b_offered = w_waits = false;
        reading_bursts[0] = reading_bursts[1] = 0;
        ar_offer.clear(), aw_offer.clear(), w_offer.clear();
        device.set(Device::AXI_R, device->PORT(axi, rvalid), false);
        device.set(Device::AXI_B, device->PORT(axi, bvalid), false);
    }

    // `response`: SLVERR or DECERR, or NO_ANSWER: bursts that touch the lines, and so those behind them that have the same
    // id, are not answered until the next heal().
    void fail_lines(uint64_t line, uint64_t count, bool on_reads, bool on_writes, unsigned response) {
        failing.push_back({line, line + count, on_reads, on_writes, response});
    }
    void heal() {
        failing.clear();
        for (unsigned id = 0; id < IDS; id++) {
            reads[id].each([&](Read &burst) { burst.due = std::min(burst.due, device.now()); });
            writes[id].each([&](Write &burst) { burst.due = std::min(burst.due, device.now()); });
        }
    }

    // What went below the line given last and what from it on, since then; now `line` divides them.
    std::array<DramCounts, 2> count_from(uint64_t line) {
        auto found = counts;
        for (unsigned part = 0; part < 2; part++) counts[part] = {.most_read_bursts = reading_bursts[part]};
        border = line;
        return found;
    }

private:
    // More than a device asks for before it gives up what is not answered.
    static constexpr unsigned READS = 1024, BURSTS = 256, IDS = 16, BEATS = 64;
    static constexpr Clock NEVER = ~Clock(0);

    struct Address {
        uint64_t address;
        uint32_t len, size, burst, id;
        bool operator==(const Address &) const = default;
    };
    struct Beat {
        uint32_t data[16];
        uint64_t strobe;
        bool last;
        bool operator==(const Beat &) const = default;
    };
    struct Read {
        Clock due;
        uint64_t line;
        uint32_t left, part;
    };
    struct Write {
        Clock due;
        uint64_t line;
        uint32_t beats, taken, id, buffer, part;
    };
    struct Failing {
        uint64_t begin, end;
        bool reads, writes;
        unsigned response;
    };

    Device &device;
    Storage &storage;
    Random random;
    std::vector<Failing> failing;
    uint32_t tokens = 0;
    std::array<DramCounts, 2> counts{};  // below `border`, and from it on
    uint64_t border = 0;
    uint64_t reading_bursts[2] = {};     // whose last data has not been taken
    unsigned r_part = 0;                 // of the burst whose data is offered
    bool write_turn = false;

    Ring<Read, READS> reads[IDS];
    uint32_t read_mask = 0;  // ids whose queue is not empty
    unsigned reads_held = 0, read_id = 0;
    bool reading = false;    // in the middle of the burst at the front of reads[read_id]
    bool r_offered = false;

    Ring<Write, BURSTS> open_writes;   // whose data is not there yet, in the order of AW
    Ring<Write, BURSTS> writes[IDS];   // that wait for their B
    Ring<unsigned, BURSTS> free_buffers;
    struct { uint8_t data[64]; uint64_t strobe; } buffers[BURSTS][BEATS];
    uint32_t write_mask = 0;
    unsigned writes_held = 0;
    bool b_offered = false, w_waits = false;

    Offer<Address> ar_offer{"AXI AR"}, aw_offer{"AXI AW"};
    Offer<Beat> w_offer{"AXI W"};

    Clock due() { return device.now() + latency + (jitter ? random.below(jitter + 1) : 0); }

    // The response for a line: 0 where it does not fail.
    unsigned failure(uint64_t line, bool Failing::*kind) const {
        for (const Failing &range : failing)
            if (range.*kind && range.begin <= line && line < range.end && range.response != NO_ANSWER) return range.response;
        return 0;
    }
    bool is_answered(uint64_t line, uint64_t count, bool Failing::*kind) const {
        for (const Failing &range : failing)
            if (range.*kind && range.response == NO_ANSWER && range.begin < line + count && line < range.end) return false;
        return true;
    }

    template <typename Queue>
    static unsigned earliest(Queue *queues, uint32_t mask) {
        unsigned best = __builtin_ctz(mask);
        for (mask &= mask - 1; mask; mask &= mask - 1) {
            unsigned id = __builtin_ctz(mask);
            if (queues[id].front().due < queues[best].front().due) best = id;
        }
        return best;
    }

    void check(const char *name, const Address &a) const {
        auto address = static_cast<unsigned long long>(a.address);
        if (a.burst != 1) fail("%s: burst type %u at 0x%llx, only INCR is served", name, a.burst, address);
        if (a.size != 6) fail("%s: size %u at 0x%llx, only 64-byte beats are served", name, a.size, address);
        if (a.address % 64) fail("%s: address 0x%llx is not that of a line", name, address);
        uint64_t end = a.address + 64 * (uint64_t(a.len) + 1);
        unsigned beats = a.len + 1;
        if ((end - 1) >> 12 != a.address >> 12) fail("%s: the burst of %u at 0x%llx crosses 4 KiB", name, beats, address);
        if (end > storage.size()) fail("%s: the burst of %u at 0x%llx leaves DRAM", name, beats, address);
    }

    void drive_reads() {
        if (reads_held && !r_offered && tokens >= 64 && !(write_turn && w_waits && !open_writes.empty())) {
            if (!reading) {
                read_id = earliest(reads, read_mask);
                reading = reads[read_id].front().due <= device.now();
            }
            if (reading) return offer_read();
        }
        if (!r_offered) device.set(Device::AXI_R, device->PORT(axi, rvalid), false);
    }

    void offer_read() {
        Read &burst = reads[read_id].front();
        memcpy(&device->PORT(axi, rdata)[0], storage.line(burst.line), 64);
        device->PORT(axi, rid) = read_id;
        unsigned response = failure(burst.line, &Failing::reads);
        device->PORT(axi, rresp) = response;
        device->PORT(axi, rlast) = burst.left == 1;
        device->PORT(axi, rvalid) = 1;
        device.touch(Device::AXI_R);
        r_offered = true;
        tokens -= 64;
        write_turn = true;
        r_part = burst.part;
        counts[r_part].lines_read++;
        counts[r_part].failed_lines_read += response != 0;
        burst.line++;
        if (--burst.left) return;
        reading = false;
        reads[read_id].pop();
        if (reads[read_id].empty()) read_mask &= ~(1u << read_id);
        reads_held--;
    }

    void drive_writes() {
        device.set(Device::OTHERS, device->PORT(axi, arready), reads_held < READS);
        device.set(Device::OTHERS, device->PORT(axi, awready), writes_held < BURSTS);
        device.set(Device::OTHERS, device->PORT(axi, wready), !open_writes.empty() && tokens >= 64);
    }

    void drive_completions() {
        if (b_offered) return;
        if (write_mask) {
            unsigned id = earliest(writes, write_mask);
            if (writes[id].front().due <= device.now()) {
                device->PORT(axi, bresp) = retire_write(id);
                device->PORT(axi, bid) = id;
                device->PORT(axi, bvalid) = 1;
                device.touch(Device::AXI_B);
                b_offered = true;
                return;
            }
        }
        device.set(Device::AXI_B, device->PORT(axi, bvalid), false);
    }

    // Puts the data of the oldest burst of `id` into storage, but for lines that fail. Returns the response.
    unsigned retire_write(unsigned id) {
        Write &burst = writes[id].front();
        unsigned response = 0;
        for (uint32_t i = 0; i < burst.beats; i++) {
            if (unsigned failed = failure(burst.line + i, &Failing::writes))
                response = failed;
            else
                storage.write_line(burst.line + i, buffers[burst.buffer][i].data, buffers[burst.buffer][i].strobe);
        }
        free_buffers.push(burst.buffer);
        writes[id].pop();
        if (writes[id].empty()) write_mask &= ~(1u << id);
        writes_held--;
        counts[burst.part].failed_write_bursts += response != 0;
        return response;
    }

    void sample_reads() {
        if (r_offered && device->PORT(axi, rready)) {
            r_offered = false;
            reading_bursts[r_part] -= device->PORT(axi, rlast);
        }
        auto read = [&] {
            return Address{device->PORT(axi, araddr), device->PORT(axi, arlen), device->PORT(axi, arsize),
                           device->PORT(axi, arburst), device->PORT(axi, arid)};
        };
        ar_offer.check(device->PORT(axi, arvalid), device->PORT(axi, arready), read);
        if (device->PORT(axi, arvalid) && device->PORT(axi, arready)) {
            Address a = read();
            check("AXI AR", a);
            unsigned part = a.address / 64 >= border;
            DramCounts &count = counts[part];
            count.read_bursts++;
            count.most_read_bursts = std::max(count.most_read_bursts, ++reading_bursts[part]);
            bool answered = is_answered(a.address / 64, a.len + 1, &Failing::reads);
            count.unanswered_bursts += !answered;
            reads[a.id].push({answered ? due() : NEVER, a.address / 64, a.len + 1, part});
            read_mask |= 1u << a.id;
            reads_held++;
        }
    }

    void sample_writes() {
        if (b_offered && device->PORT(axi, bready)) b_offered = false;
        auto read = [&] {
            return Address{device->PORT(axi, awaddr), device->PORT(axi, awlen), device->PORT(axi, awsize),
                           device->PORT(axi, awburst), device->PORT(axi, awid)};
        };
        aw_offer.check(device->PORT(axi, awvalid), device->PORT(axi, awready), read);
        w_offer.check(device->PORT(axi, wvalid), device->PORT(axi, wready), [&] {
            Beat beat{{}, device->PORT(axi, wstrb), bool(device->PORT(axi, wlast))};
            memcpy(beat.data, &device->PORT(axi, wdata)[0], 64);
            return beat;
        });
        w_waits = device->PORT(axi, wvalid);
        if (w_waits && device->PORT(axi, wready)) take_beat();
        if (device->PORT(axi, awvalid) && device->PORT(axi, awready)) {
            Address a = read();
            check("AXI AW", a);
            unsigned part = a.address / 64 >= border;
            counts[part].write_bursts++;
            open_writes.push({0, a.address / 64, a.len + 1, 0, a.id, free_buffers.front(), part});
            free_buffers.pop();
            writes_held++;
        }
    }

    void take_beat() {
        tokens -= 64;
        write_turn = false;
        Write &burst = open_writes.front();
        auto &beat = buffers[burst.buffer][burst.taken++];
        memcpy(beat.data, &device->PORT(axi, wdata)[0], 64);
        beat.strobe = device->PORT(axi, wstrb);
        counts[burst.part].lines_written++;
        counts[burst.part].bytes_written += __builtin_popcountll(beat.strobe);
        bool last = burst.taken == burst.beats;
        if (last != bool(device->PORT(axi, wlast)))
            fail("AXI W: beat %u of a burst of %u comes %s last", burst.taken, burst.beats, last ? "without" : "with");
        if (!last) return;
        bool answered = is_answered(burst.line, burst.beats, &Failing::writes);
        counts[burst.part].unanswered_bursts += !answered;
        burst.due = answered ? due() : NEVER;
        writes[burst.id].push(burst);
        write_mask |= 1u << burst.id;
        open_writes.pop();
    }
};
