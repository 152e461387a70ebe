#include "memory.h"

namespace fast_s2s::emulator {

Shadow::Shadow(size_t bytes, bool written) : cells_((bytes + 1) / 2) {
  for (Cell& cell : cells_) cell.written = written;
}

bool Shadow::before(const Access& access, const Accessor& who) {
  if (access.thread == 0 || access.thread == who.thread + 1) return true;
  const uint32_t known = (*who.clock)[access.warp];
  // within a warp only a barrier orders lanes, and it moves the warp's own entry on
  return access.warp == who.warp ? access.stamp < known : access.stamp <= known;
}

std::string Shadow::read(size_t offset, size_t bytes, const Accessor& who) {
  for (size_t i = offset / 2; i < (offset + bytes + 1) / 2; ++i) {
    Cell& cell = cells_[i];
    if (!cell.written) return "read of unwritten bytes";
    if (!before(cell.writer, who))
      return "race: read of bytes that thread " + std::to_string(cell.writer.thread - 1) +
             " of the grid wrote with no barrier between";
    const Access access{who.thread + 1, who.warp, (*who.clock)[who.warp]};
    if (cell.readers[0].warp != who.warp) cell.readers[1] = cell.readers[0];
    cell.readers[0] = access;
  }
  return "";
}

std::string Shadow::write(size_t offset, size_t bytes, const Accessor& who) {
  for (size_t i = offset / 2; i < (offset + bytes + 1) / 2; ++i) {
    Cell& cell = cells_[i];
    if (!before(cell.writer, who))
      return "race: write to bytes that thread " + std::to_string(cell.writer.thread - 1) +
             " of the grid wrote with no barrier between";
    for (const Access& reader : cell.readers)
      if (!before(reader, who))
        return "race: write to bytes that thread " + std::to_string(reader.thread - 1) +
               " of the grid read with no barrier between";
    cell = {true, {who.thread + 1, who.warp, (*who.clock)[who.warp]}, {}};
  }
  return "";
}

std::string Shadow::invalidate(size_t offset, size_t bytes, const Accessor& who) {
  const std::string wrong = write(offset, bytes, who);
  for (size_t i = offset / 2; i < (offset + bytes + 1) / 2; ++i) cells_[i].written = false;
  return wrong;
}

void Shadow::settle() {
  for (Cell& cell : cells_) cell = {cell.written, {}, {}};
}

}  // namespace fast_s2s::emulator
