// What passes over the socket between the Python link and the harness.
//
// The link sends a Command and its payload of `bytes` bytes; the harness answers with any number of PROGRESS replies
// (at least two a second while it works, so that the link can tell slow from dead) and one other Reply with its
// payload. On its start the harness sends one OK reply whose `value` is PROTOCOL_VERSION. All fields are little endian.
#pragma once

#include <cstdint>

constexpr uint64_t PROTOCOL_VERSION = 4;

enum class Op : uint32_t {
    RESET,       // resets the device
    RUN,         // a = clocks
    MMIO_READ,   // a = address; value = register
    MMIO_WRITE,  // a = address, b = value
    MMIO_POLL,   // a = address, b = mask, c = wanted, d = most clocks; value = register, or TIMEOUT
    SUBMIT,      // payload: Request[n]; answer: Response[n]. a = clocks after which to stop and reset (0: never);
                 // b = clocks after which value d is written to the register at c (0: not at all)
    DRAM_READ,   // a = byte address, b = bytes; answer: the bytes
    DRAM_WRITE,  // a = byte address; payload: the bytes
    DRAM_FAIL,   // a = first line, b = lines, c = 1 for reads + 2 for writes, d = response: SLVERR, DECERR or NO_ANSWER
    DRAM_HEAL,   // ends all failures; what was not answered is answered now
    SET,         // a = Setting, b = value
    DRAM_COUNTS, // answer: DramCounts[2] since the last one: below the line given then, and from it on. a = that line,
                 // from now on (0 at first)
};

enum class Setting : uint64_t {
    DRAM_LATENCY,          // clocks from the acceptance of an address (AR, or the last W) to the first R, or B
    DRAM_JITTER,           // up to so many clocks more, at random; then ids overtake each other
    DRAM_BYTES_PER_CLOCK,  // 1 to 64, reads and writes together
    IN_FLIGHT,             // most unfinished requests of each channel
    IDLE,                  // permille of clocks in which no new request is offered
    STALL,                 // permille of clocks in which responses are not accepted
    HANG_CLOCKS,           // clocks without progress that count as a hang
    SEED,                  // of all randomness in the traffic
};

enum class Status : uint32_t {
    OK,
    FAILED,    // payload: text; from now on every command fails
    TIMEOUT,   // the device goes on, but not as awaited
    PROGRESS,  // not an answer
};

constexpr unsigned SLVERR = 2, DECERR = 3, NO_ANSWER = 4;

struct Command {
    Op op;
    uint32_t bytes;
    uint64_t a, b, c, d;
};

struct Reply {
    Status status;
    uint32_t bytes;
    uint64_t value;
    uint64_t clocks;  // device clocks since the start
};

// speckv_model.cxl.messages.REQUEST
struct Request {
    uint8_t channel, opcode, snp_type, meta_field, meta_value, ld_id, traffic_class, poison, expect, spare[7];
    uint64_t address, byte_enable;
    uint8_t data[64];
};

// speckv_model.cxl.messages.RESPONSE
struct Response {
    uint8_t kind, ndr_opcode, drs_opcode, poison, dev_load, meta_field, meta_value, ld_id;
    uint32_t latency, accepted;
    uint8_t data[64];
};

// speckv.link.simulated.DRAM_COUNTS
struct DramCounts {
    uint64_t lines_read, lines_written, bytes_written, read_bursts, write_bursts;
    uint64_t most_read_bursts;  // accepted, and their last data not yet taken, at one time
    uint64_t failed_lines_read, failed_write_bursts, unanswered_bursts;
};

static_assert(sizeof(Command) == 40 && sizeof(Reply) == 24 && sizeof(Request) == 96 && sizeof(Response) == 80 &&
              sizeof(DramCounts) == 72);
