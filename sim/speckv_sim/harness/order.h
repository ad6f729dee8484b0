// Which requests of a batch must wait for others: those to the same 4 KiB page take effect in batch order.
//
// The device keeps the order within a channel, so a request waits for the earlier ones of the *other* channel to its
// page. Later ones of that channel wait for it in turn, so it is enough to count the finished ones.
#pragma once

#include <vector>

#include "protocol.h"
#include "support.h"

class PageOrder {
public:
    void begin(const Request *requests, uint32_t count) {
        bool mixed = false;
        for (uint32_t i = 1; i < count && !mixed; i++) mixed = requests[i].channel != requests[0].channel;
        active = mixed;
        if (!active) return;
        size_t size = 64;
        while (size < 2 * size_t(count)) size *= 2;
        table.assign(size, NOWHERE);
        pages.clear();
        page_of.resize(count);
        needs.resize(count);
        for (uint32_t i = 0; i < count; i++) {
            Page &page = pages[page_of[i] = find(requests[i].address >> 12)];
            needs[i] = page.seen[!requests[i].channel];
            page.seen[requests[i].channel]++;
        }
    }
    bool may_start(uint32_t index, unsigned channel) const {
        return !active || pages[page_of[index]].finished[!channel] >= needs[index];
    }
    void finish(uint32_t index, unsigned channel) {
        if (active) pages[page_of[index]].finished[channel]++;
    }

private:
    static constexpr uint32_t NOWHERE = ~0u;
    struct Page {
        uint64_t number;
        uint32_t seen[2], finished[2];
    };
    bool active = false;
    std::vector<uint32_t> table;    // hash table of indices into pages
    std::vector<Page> pages;
    std::vector<uint32_t> page_of;  // request -> index into pages
    std::vector<uint32_t> needs;    // request -> finished requests of the other channel that it waits for

    uint32_t find(uint64_t number) {
        for (size_t place = Random::mix(number);; place++) {
            uint32_t &entry = table[place & (table.size() - 1)];
            if (entry == NOWHERE) {
                entry = pages.size();
                pages.push_back({number, {0, 0}, {0, 0}});
            }
            if (pages[entry].number == number) return entry;
        }
    }
};
