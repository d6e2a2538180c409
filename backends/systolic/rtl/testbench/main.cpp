// Runs a program on the Verilog of a machine: main PROGRAM IMAGE OUTPUT EVENTS LATENCY BUS_BYTES LIMIT SEED
//
// PROGRAM: instructions of 64 bytes. IMAGE: DRAM at the start; OUTPUT: DRAM at the end. EVENTS gets lines
// "start UNIT CYCLE", "done UNIT CYCLE" and "halted CYCLE"; cycle 0 is that of the first instruction's dispatch.
// SEED 0: DRAM takes a request a cycle and answers LATENCY cycles later. Otherwise everything stalls at random.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "Vsystolic.h"
#include "verilated.h"

namespace {

using Bytes = std::vector<uint8_t>;
constexpr size_t INSTRUCTION_BYTES = 64;
constexpr int UNITS = 4;

[[noreturn]] void fail(const std::string& message) {
    std::fprintf(stderr, "%s\n", message.c_str());
    std::exit(1);
}

Bytes read_file(const char* path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail(std::string("cannot read ") + path);
    return Bytes(std::istreambuf_iterator<char>(file), {});
}

// DRAM behind an AXI4 port. `drive` sets the inputs of a cycle, `settle` looks at what was agreed in it.
class Dram {
  public:
    Dram(Vsystolic& top, Bytes& memory, long latency, size_t bus, unsigned seed)
        : top_(top), memory_(memory), latency_(latency), bus_(bus), stalls_(seed != 0), random_(seed) {}

    void drive(long cycle) {
        top_.axi_arready = !stalled();
        top_.axi_awready = !stalled();
        top_.axi_wready = !stalled();
        // what is valid stays valid until it is taken
        read_valid_ = !reads_.empty() && reads_.front().due <= cycle && (read_valid_ || !stalled());
        top_.axi_rvalid = read_valid_;
        if (read_valid_) std::memcpy(&top_.axi_rdata, beat(reads_.front().address), bus_);
        answer_valid_ = !answers_.empty() && answers_.front() <= cycle && (answer_valid_ || !stalled());
        top_.axi_bvalid = answer_valid_;
    }

    void settle(long cycle) {
        kept_[0].check(top_.axi_arvalid, top_.axi_arready, top_.axi_araddr);
        kept_[1].check(top_.axi_awvalid, top_.axi_awready, top_.axi_awaddr);
        kept_[2].check(top_.axi_wvalid, top_.axi_wready, top_.axi_wlast);
        if (top_.axi_arvalid && top_.axi_arready) {
            for (long beat = 0; beat <= top_.axi_arlen; beat++)
                reads_.push_back({cycle + latency_ + beat, top_.axi_araddr + beat * (1ul << top_.axi_arsize)});
        }
        if (read_valid_ && top_.axi_rready) {
            reads_.pop_front();
            read_valid_ = false;
        }
        if (answer_valid_ && top_.axi_bready) {
            answers_.pop_front();
            answer_valid_ = false;
        }
        if (top_.axi_awvalid && top_.axi_awready) write_addresses_.push_back(top_.axi_awaddr);
        if (top_.axi_wvalid && top_.axi_wready) {
            Beat beat;
            beat.data.resize(bus_);
            std::memcpy(beat.data.data(), &top_.axi_wdata, bus_);
            std::memcpy(&beat.strobe, &top_.axi_wstrb, (bus_ + 7) / 8);
            beat.last = top_.axi_wlast;
            writes_.push_back(beat);
        }
        while (!write_addresses_.empty() && !writes_.empty()) {
            Beat written = writes_.front();
            writes_.pop_front();
            write(write_addresses_.front() + written_beats_ * (1ul << top_.axi_awsize), written);
            written_beats_++;
            if (!written.last) continue;
            if (written_beats_ != top_.axi_awlen + 1u) fail("a burst has another length than its address says");
            written_beats_ = 0;
            write_addresses_.pop_front();
            answers_.push_back(cycle + latency_);
        }
    }

  private:
    // AXI's rule: what is valid stays, and stays the same, until it is taken.
    struct Kept {
        bool waits = false;
        uint64_t value = 0;
        void check(bool valid, bool ready, uint64_t now) {
            if (waits && (!valid || now != value)) fail("a channel of the AXI port took back what it offered");
            waits = valid && !ready;
            value = now;
        }
    };
    struct Read {
        long due;
        uint64_t address;
    };
    struct Beat {
        Bytes data;
        std::array<uint8_t, 128> strobe{};
        bool last;
    };

    bool stalled() { return stalls_ && random_() % 3 == 0; }

    uint8_t* beat(uint64_t address) {
        uint64_t first = address / bus_ * bus_;
        if (address >= memory_.size()) fail("DRAM has no byte " + std::to_string(address));
        return memory_.data() + first;
    }

    void write(uint64_t address, const Beat& written) {
        uint8_t* bytes = beat(address);
        for (size_t i = 0; i < bus_; i++)
            if (written.strobe[i / 8] >> (i % 8) & 1) bytes[i] = written.data[i];
    }

    Vsystolic& top_;
    Bytes& memory_;
    long latency_;
    size_t bus_;
    bool stalls_;
    std::mt19937 random_;
    bool read_valid_ = false, answer_valid_ = false;
    std::deque<Read> reads_;
    std::deque<long> answers_;
    std::deque<uint64_t> write_addresses_;
    std::deque<Beat> writes_;
    size_t written_beats_ = 0;
    Kept kept_[3];
};

}  // namespace

int main(int count, char** arguments) {
    if (count != 9) fail("arguments must be PROGRAM IMAGE OUTPUT EVENTS LATENCY BUS_BYTES LIMIT SEED");
    Bytes program = read_file(arguments[1]), memory = read_file(arguments[2]);
    const size_t image_bytes = memory.size();
    const long latency = std::atol(arguments[5]), limit = std::atol(arguments[7]);
    const size_t bus = std::atol(arguments[6]);
    const unsigned seed = std::atol(arguments[8]);
    memory.resize((image_bytes + bus - 1) / bus * bus);  // whole beats
    std::FILE* events = std::fopen(arguments[4], "w");
    if (!events) fail(std::string("cannot write ") + arguments[4]);

    VerilatedContext context;
    Vsystolic top(&context);
    Dram dram(top, memory, latency, bus, seed);
    std::mt19937 random(seed + 1);
    top.reset = 1;
    for (int half = 0; half < 4; half++) {
        top.clock = half & 1;
        top.eval();
    }
    top.reset = 0;
    long cycle = 0, origin = -1;
    for (; !top.halted; cycle++) {
        if (cycle == limit) fail("not halted after " + std::to_string(limit) + " cycles");
        top.clock = 0;
        const size_t index = top.fetch_index;
        top.fetch_valid = index < program.size() / INSTRUCTION_BYTES && (seed == 0 || random() % 3 != 0);
        if (top.fetch_valid) {
            std::memcpy(&top.fetch_instruction, &program[index * INSTRUCTION_BYTES], INSTRUCTION_BYTES);
        }
        dram.drive(cycle);
        top.eval();
        if (origin < 0 && top.fetch_valid && top.fetch_ready) origin = cycle;
        for (int unit = 0; unit < UNITS; unit++) {
            if (top.trace_start >> unit & 1) std::fprintf(events, "start %d %ld\n", unit, cycle - origin);
            if (top.trace_done >> unit & 1) std::fprintf(events, "done %d %ld\n", unit, cycle - origin);
        }
        if (top.illegal) fail("instruction " + std::to_string(index) + " has an unknown opcode");
        if (top.halted) break;
        dram.settle(cycle);
        top.clock = 1;
        top.eval();
    }
    std::fprintf(events, "halted %ld\n", cycle - origin);
    std::fclose(events);
    std::ofstream(arguments[3], std::ios::binary).write(reinterpret_cast<char*>(memory.data()), image_bytes);
    return 0;
}
