// The bytes of device DRAM: sparse, and full of noise where nobody has written, as after power-up.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "support.h"

class Storage {
public:
    // With `noise` zero everything starts as zeros; else it seeds the noise.
    Storage(uint64_t bytes, uint64_t noise) : bytes(bytes), noise(noise) {
        memory = reserve(bytes);
        touched = reserve((bytes >> BLOCK_BITS) + 1);
    }

    uint64_t size() const { return bytes; }

    const uint8_t *line(uint64_t line) { return at(line * 64); }

    void write_line(uint64_t line, const uint8_t *data, uint64_t strobe) {
        uint8_t *target = at(line * 64);
        if (strobe == ~uint64_t(0)) {
            memcpy(target, data, 64);
        } else {
            for (int i = 0; i < 64; i++)
                if (strobe >> i & 1) target[i] = data[i];
        }
    }

    // Calls `each(pointer, count)` for the pieces of a byte range, in order.
    template <typename Each>
    void pieces(uint64_t address, uint64_t count, Each each) {
        while (count) {
            uint64_t piece = std::min(count, BLOCK - address % BLOCK);
            each(at(address), piece);
            address += piece;
            count -= piece;
        }
    }

private:
    static constexpr unsigned BLOCK_BITS = 12;
    static constexpr uint64_t BLOCK = 1 << BLOCK_BITS;

    uint64_t bytes, noise;
    uint8_t *memory, *touched;

    static uint8_t *reserve(uint64_t bytes) {
        constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void *place = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (place == MAP_FAILED) fail("no address space for the %llu bytes of DRAM", (unsigned long long)bytes);
        return static_cast<uint8_t *>(place);
    }

    uint8_t *at(uint64_t address) {
        uint64_t block = address >> BLOCK_BITS;
        if (noise && !touched[block]) {
            touched[block] = 1;
            Random random(noise ^ Random::mix(block));
            uint64_t *words = reinterpret_cast<uint64_t *>(memory + block * BLOCK);
            uint64_t end = std::min(BLOCK, bytes - block * BLOCK) / 8;
            for (uint64_t i = 0; i < end; i++) words[i] = random.next();
        }
        return memory + address;
    }
};
