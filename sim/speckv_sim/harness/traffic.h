// The host's side of CXL.mem: issues a batch of requests as fast as the device takes them and collects the responses.
#pragma once

#include <cstring>
#include <vector>

#include "device.h"
#include "order.h"
#include "protocol.h"

class Traffic {
public:
    explicit Traffic(Device &device) : device(device), random(1), tags(1 << 16) {}

    uint32_t in_flight = 256, idle = 0, stall = 0;
    uint64_t hang_clocks = 1'000'000;

    void seed(uint64_t seed) { random = Random(seed); }

    void begin(const Request *batch, uint32_t count) {
        for (uint32_t i = 0; i < count; i++)
            if (batch[i].channel > RWD) fail("request %u is for channel %u", i, batch[i].channel);
        requests = batch;
        responses.assign(count, Response{});
        order.begin(batch, count);
        for (Channel &channel : channels) channel.begin();
        for (uint32_t i = 0; i < count; i++) channels[batch[i].channel].queue.push_back(i);
        unfinished = count;
        begun = progress = device.now();
    }
    bool done() const { return !unfinished; }
    const std::vector<Response> &results() const { return responses; }

    // Before Device::settle.
    void drive() {
        if (unfinished) {
            if (can_offer(REQ)) offer_req();
            if (can_offer(RWD)) offer_rwd();
        }
        device.set(Device::M2S_REQ, device->PORT(m2s_req, valid), channels[REQ].offered);
        device.set(Device::M2S_RWD, device->PORT(m2s_rwd, valid), channels[RWD].offered);
        device.set(Device::OTHERS, device->PORT(s2m_ndr, ready), !random.permille(stall));
        device.set(Device::OTHERS, device->PORT(s2m_drs, ready), !random.permille(stall));
    }
    // After Device::settle, before the clock edge.
    void sample() {
        if (channels[REQ].offered && device->PORT(m2s_req, ready)) accept(REQ);
        if (channels[RWD].offered && device->PORT(m2s_rwd, ready)) accept(RWD);

        bool valid = device->PORT(s2m_ndr, valid), ready = device->PORT(s2m_ndr, ready);
        ndr_offer.check(valid, ready, [&] { return device->PORT(s2m_ndr, payload); });
        if (valid && ready) take_ndr();

        valid = device->PORT(s2m_drs, valid), ready = device->PORT(s2m_drs, ready);
        drs_offer.check(valid, ready, [&] {
            Drs drs;
            memcpy(drs.words, &device->PORT(s2m_drs, payload)[0], sizeof drs.words);
            return drs;
        });
        if (valid && ready) take_drs();

        if (unfinished && device.now() - progress >= hang_clocks) report_hang();
    }
    // The device was reset: nothing is outstanding, and what has not come will not come.
    void reset() {
        unfinished = 0;
        for (Channel &channel : channels) channel.begin();
        for (Tag &tag : tags) tag.expect = 0;
        ndr_offer.clear(), drs_offer.clear();
        device.set(Device::M2S_REQ, device->PORT(m2s_req, valid), false);
        device.set(Device::M2S_RWD, device->PORT(m2s_rwd, valid), false);
    }

private:
    enum { REQ, RWD };
    enum { NDR = 1, DRS = 2 };

    struct Channel {
        std::vector<uint32_t> queue;  // indices into the batch
        size_t next = 0;
        uint32_t flying = 0;
        uint16_t tag = 0;             // of the request that is offered
        bool offered = false;

        void begin() {
            queue.clear();
            next = flying = 0;
            offered = false;
        }
    };
    struct Tag {
        Clock accepted;
        uint32_t index;
        uint8_t expect;  // responses still to come; 0 while the tag is not in use
    };
    struct Drs {
        uint32_t words[17];
        bool operator==(const Drs &) const = default;
    };

    Device &device;
    Random random;
    const Request *requests = nullptr;
    std::vector<Response> responses;
    PageOrder order;
    Channel channels[2];
    std::vector<Tag> tags;
    uint16_t next_tag = 0;
    uint32_t unfinished = 0;
    Clock begun = 0, progress = 0;
    Offer<uint32_t> ndr_offer{"S2M NDR"};
    Offer<Drs> drs_offer{"S2M DRS"};

    bool can_offer(unsigned which) {
        const Channel &channel = channels[which];
        return !channel.offered && channel.next < channel.queue.size() && channel.flying < in_flight &&
               order.may_start(channel.queue[channel.next], which) && !random.permille(idle);
    }

    const Request &offer(Channel &channel) {
        while (tags[next_tag].expect) next_tag++;
        channel.tag = next_tag++;
        channel.offered = true;
        return requests[channel.queue[channel.next]];
    }

    // opcode 4, snp_type 3, meta_field 2, meta_value 2, tag 16: what both payloads have in front of the address.
    static uint32_t head(const Request &r, uint16_t tag) {
        return (r.opcode & 15) | (r.snp_type & 7) << 4 | (r.meta_field & 3) << 7 | (r.meta_value & 3) << 9 | tag << 11;
    }

    // head 27, address 47, traffic_class 2, ld_id 4
    void offer_req() {
        const Request &r = offer(channels[REQ]);
        uint64_t address = r.address >> 5;
        auto &words = device->PORT(m2s_req, payload);
        device.touch(Device::M2S_REQ);
        words[0] = head(r, channels[REQ].tag) | static_cast<uint32_t>(address << 27);
        words[1] = static_cast<uint32_t>(address >> 5);
        words[2] = static_cast<uint32_t>(address >> 37 & 0x3ff) | (r.traffic_class & 3) << 10 | (r.ld_id & 15) << 12;
    }

    // data 512, byte_enable 64, head 27, address 46, poison 1, traffic_class 2, ld_id 4
    void offer_rwd() {
        const Request &r = offer(channels[RWD]);
        uint64_t address = r.address >> 6;
        auto &words = device->PORT(m2s_rwd, payload);
        device.touch(Device::M2S_RWD);
        memcpy(&words[0], r.data, 64);
        memcpy(&words[16], &r.byte_enable, 8);
        words[18] = head(r, channels[RWD].tag) | static_cast<uint32_t>(address << 27);
        words[19] = static_cast<uint32_t>(address >> 5);
        words[20] = static_cast<uint32_t>(address >> 37 & 0x1ff) | (r.poison & 1) << 9 | (r.traffic_class & 3) << 10 |
                    (r.ld_id & 15) << 12;
    }

    void accept(unsigned which) {
        Channel &channel = channels[which];
        uint32_t index = channel.queue[channel.next++];
        channel.offered = false;
        progress = device.now();
        responses[index].accepted = static_cast<uint32_t>(device.now() - begun);
        if (requests[index].expect) {
            tags[channel.tag] = {device.now(), index, requests[index].expect};
            channel.flying++;
        } else {
            order.finish(index, which);
            unfinished--;
        }
    }

    // What both responses do to their request.
    Response &take(uint16_t tag, uint8_t kind, const char *name) {
        Tag &use = tags[tag];
        if (!use.expect) fail("%s with tag 0x%04x: nobody waits for it", name, tag);
        if (!(use.expect & kind)) fail("%s with tag 0x%04x: of the wrong kind", name, tag);
        use.expect &= ~kind;
        progress = device.now();
        Response &response = responses[use.index];
        response.kind |= kind;
        if (!use.expect) {
            unsigned which = requests[use.index].channel;
            response.latency = static_cast<uint32_t>(device.now() - use.accepted);
            order.finish(use.index, which);
            channels[which].flying--;
            unfinished--;
        }
        return response;
    }

    // opcode 3, meta_field 2, meta_value 2, tag 16, ld_id 4, dev_load 2
    void take_ndr() {
        uint32_t word = device->PORT(s2m_ndr, payload);
        Response &response = take(word >> 7 & 0xffff, NDR, "S2M NDR");
        response.ndr_opcode = word & 7;
        response.meta_field = word >> 3 & 3;
        response.meta_value = word >> 5 & 3;
        response.ld_id = word >> 23 & 15;
        response.dev_load = word >> 27 & 3;
    }

    // data 512, opcode 3, meta_field 2, meta_value 2, tag 16, poison 1, ld_id 4, dev_load 2
    void take_drs() {
        const auto &words = device->PORT(s2m_drs, payload);
        uint32_t word = words[16];
        Response &response = take(word >> 7 & 0xffff, DRS, "S2M DRS");
        memcpy(response.data, &words[0], 64);
        response.drs_opcode = word & 7;
        response.meta_field = word >> 3 & 3;
        response.meta_value = word >> 5 & 3;
        response.poison = word >> 23 & 1;
        response.ld_id = word >> 24 & 15;
        response.dev_load = word >> 28 & 3;
    }

    [[noreturn]] void report_hang() const {
        std::string text = "no progress for " + std::to_string(hang_clocks) + " clocks";
        unsigned flying = channels[REQ].flying + channels[RWD].flying;
        if (flying) {
            const Tag *first = nullptr;
            for (const Tag &tag : tags)
                if (tag.expect && (!first || tag.accepted < first->accepted)) first = &tag;
            text += ": " + std::to_string(flying) + " requests outstanding, first " +
                    describe(first->index, static_cast<uint16_t>(first - tags.data()));
        }
        for (const Channel &channel : channels)
            if (channel.offered) text += "; not accepted: " + describe(channel.queue[channel.next], channel.tag);
        throw Failure(text);
    }

    std::string describe(uint32_t index, uint16_t tag) const {
        const Request &r = requests[index];
        char text[128];
        snprintf(text, sizeof text, "tag 0x%04x (%s opcode %u, address 0x%llx)", tag, r.channel == REQ ? "Req" : "RwD",
                 r.opcode, static_cast<unsigned long long>(r.address));
        return text;
    }
};
