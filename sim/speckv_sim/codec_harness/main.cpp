// Clocks an encoder and a decoder, each with a page after the other and never with back-pressure.
//
//     codec INPUT OUTPUT
//
// INPUT, little endian: for each page 64-bit payloads of both starts, the number of stored lines, 4096 bytes of the
// page, 4096 bytes of stored lines. OUTPUT: for each page the clocks in which its result and its last decoded line came,
// the result's payload, 4096 bytes of what the encoder stored and 4096 of what the decoder made.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "Vcodec.h"
#include "verilated.h"

// Verilator's name of a port that is called part__stream__signal.
#define PORT(part, stream, signal) part##___05F##stream##___05F##signal

namespace {

constexpr unsigned LINE_BYTES = 64, LINE_WORDS = 16, PAGE_LINES = 64, PAGE_BYTES = LINE_BYTES * PAGE_LINES;
// Of a stored line: its index, whether it belongs to the page after the one whose result comes next, its bytes.
constexpr unsigned INDEX_BITS = 6, DATA_BIT = INDEX_BITS + 1;
constexpr uint64_t MOST_CLOCKS_A_PAGE = 4096;

struct Job {
    uint64_t encode, decode, lines;
    uint8_t page[PAGE_BYTES], stored[PAGE_BYTES];
};

struct Result {
    uint64_t encoded, decoded, result;
    uint8_t stored[PAGE_BYTES], page[PAGE_BYTES];
};

class Bench {
public:
    explicit Bench(const std::vector<Job> &jobs) : jobs(jobs), results(jobs.size()) {}

    bool run() {
        dut.rst = 1;
        for (int i = 0; i < 4; i++) edge();
        dut.rst = 0;
        const uint64_t most = MOST_CLOCKS_A_PAGE * (jobs.size() + 2);
        while (encoded < jobs.size() || decoded < jobs.size()) {
            if (clock > most) return false;
            offer();
            dut.eval();
            take();
            edge();
            clock++;
        }
        return true;
    }

    const std::vector<Result> &found() const { return results; }

private:
    void edge() {
        dut.clk = 1;
        dut.eval();
        dut.clk = 0;
        dut.eval();
    }

    void offer() {
        dut.PORT(encoder, start, valid) = encode_starts < jobs.size();
        if (dut.PORT(encoder, start, valid)) dut.PORT(encoder, start, payload) = jobs[encode_starts].encode;
        dut.PORT(encoder, lines, valid) = encode_page < jobs.size();
        if (dut.PORT(encoder, lines, valid)) load(dut.PORT(encoder, lines, payload), jobs[encode_page].page, encode_line);
        dut.PORT(decoder, start, valid) = decode_starts < jobs.size();
        if (dut.PORT(decoder, start, valid)) dut.PORT(decoder, start, payload) = jobs[decode_starts].decode;
        dut.PORT(decoder, stored, valid) = decode_page < jobs.size();
        if (dut.PORT(decoder, stored, valid)) load(dut.PORT(decoder, stored, payload), jobs[decode_page].stored, decode_line);
        dut.PORT(encoder, stored, ready) = dut.PORT(encoder, result, ready) = dut.PORT(decoder, lines, ready) = 1;
    }

    void take() {
        encode_starts += dut.PORT(encoder, start, valid) && dut.PORT(encoder, start, ready);
        decode_starts += dut.PORT(decoder, start, valid) && dut.PORT(decoder, start, ready);
        if (dut.PORT(encoder, lines, valid) && dut.PORT(encoder, lines, ready) && ++encode_line == PAGE_LINES) {
            encode_line = 0;
            encode_page++;
        }
        if (dut.PORT(decoder, stored, valid) && dut.PORT(decoder, stored, ready) && ++decode_line == jobs[decode_page].lines) {
            decode_line = 0;
            decode_page++;
        }
        const size_t owner = encoded + (dut.PORT(encoder, stored, payload)[0] >> INDEX_BITS & 1);
        if (dut.PORT(encoder, stored, valid) && owner < jobs.size()) {
            const unsigned index = dut.PORT(encoder, stored, payload)[0] & ((1u << INDEX_BITS) - 1);
            std::array<uint32_t, LINE_WORDS> words;
            for (unsigned i = 0; i < LINE_WORDS; i++)
                words[i] = dut.PORT(encoder, stored, payload)[i] >> DATA_BIT
                           | dut.PORT(encoder, stored, payload)[i + 1] << (32 - DATA_BIT);
            memcpy(results[owner].stored + index * LINE_BYTES, words.data(), LINE_BYTES);
        }
        if (dut.PORT(encoder, result, valid) && encoded < jobs.size()) {
            results[encoded].encoded = clock;
            results[encoded++].result = dut.PORT(encoder, result, payload);
        }
        if (dut.PORT(decoder, lines, valid) && decoded < jobs.size()) {
            memcpy(results[decoded].page + out_line * LINE_BYTES, dut.PORT(decoder, lines, payload).data(), LINE_BYTES);
            if (++out_line == PAGE_LINES) {
                out_line = 0;
                results[decoded++].decoded = clock;
            }
        }
    }

    template <typename Payload>
    static void load(Payload &payload, const uint8_t *bytes, unsigned line) {
        memcpy(payload.data(), bytes + line * LINE_BYTES, LINE_BYTES);
    }

    const std::vector<Job> &jobs;
    std::vector<Result> results;
    Vcodec dut;
    uint64_t clock = 0;
    size_t encode_starts = 0, decode_starts = 0, encode_page = 0, decode_page = 0, encoded = 0, decoded = 0;
    unsigned encode_line = 0, decode_line = 0, out_line = 0;
};

}  // namespace

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    FILE *input = fopen(argv[1], "rb"), *output = fopen(argv[2], "wb");
    if (!input || !output) return 2;
    std::vector<Job> jobs;
    for (Job job; fread(&job, sizeof job, 1, input) == 1;) jobs.push_back(job);
    Bench bench(jobs);
    if (!bench.run()) {
        fprintf(stderr, "pages take longer than %lu clocks each\n", (unsigned long)MOST_CLOCKS_A_PAGE);
        return 1;
    }
    const auto &found = bench.found();
    return fwrite(found.data(), sizeof(Result), found.size(), output) == found.size() && !fclose(output) ? 0 : 2;
}
