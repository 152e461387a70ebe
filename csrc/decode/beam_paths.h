// The hypotheses of one row in a transducer's beam search. No instruction set matters here, but the
// kernel that includes it.

namespace fast_s2s {
namespace FAST_S2S_ISA {

// TokenTree as a tree: each token knows the one before it.
class TokenTree {
 public:
  static constexpr int64_t kNone = -1;

  int64_t add(int64_t before, int64_t token, int64_t frame) {
    const bool first = before == kNone;
    const uint64_t hash = first ? 0 : nodes_[before].hash;
    nodes_.push_back({before, token, frame, (first ? 0 : nodes_[before].length) + 1,
                      (hash ^ static_cast<uint64_t>(token + 1)) * 0x9e3779b97f4a7c15u});
    return static_cast<int64_t>(nodes_.size()) - 1;
  }

  // Whether two are of the same tokens, be they of other frames.
  bool same(int64_t a, int64_t b) const {
    while (a != b) {
      if (a == kNone || b == kNone) return false;
      const Node &one = nodes_[a], &other = nodes_[b];
      if (one.hash != other.hash || one.length != other.length || one.token != other.token)
        return false;
      a = one.before, b = other.before;
    }
    return true;
  }

  void write(int64_t node, std::vector<int64_t>& tokens, std::vector<int64_t>& frames) const {
    tokens.clear(), frames.clear();
    for (; node != kNone; node = nodes_[node].before) {
      tokens.push_back(nodes_[node].token);
      frames.push_back(nodes_[node].frame);
    }
    std::reverse(tokens.begin(), tokens.end());
    std::reverse(frames.begin(), frames.end());
  }

 private:
  struct Node {
    int64_t before, token, frame, length;
    uint64_t hash;
  };
  std::vector<Node> nodes_;
};

// `slot`: where the predictor's states are; `last`: what it read last.
struct BeamPath {
  int64_t sequence, slot, last;
  double score;
};

// log(e^a + e^b)
inline double log_add(double a, double b) {
  const double most = std::max(a, b), least = std::min(a, b);
  return least == kNever<double> ? most : most + std::log1p(std::exp(least - most));
}

// The best hypotheses, best first; of equal ones those that came first.
class KeptPaths {
 public:
  explicit KeptPaths(int64_t width) : width_(width) {}

  // One of a sequence that is there adds to its probability; it is dated by the likelier one.
  void add(const TokenTree& sequences, const BeamPath& added) {
    for (BeamPath& there : all_) {
      if (!sequences.same(there.sequence, added.sequence)) continue;
      if (added.score > there.score) there.sequence = added.sequence;
      there.score = log_add(there.score, added.score);
      return;
    }
    all_.push_back(added);
  }
  void sort_and_cut() {
    std::stable_sort(all_.begin(), all_.end(),
                     [](const BeamPath& a, const BeamPath& b) { return a.score > b.score; });
    if (static_cast<int64_t>(all_.size()) > width_) all_.resize(width_);
  }
  // What another must exceed to be among them.
  double limit() const {
    return static_cast<int64_t>(all_.size()) < width_ ? kNever<double> : all_.back().score;
  }
  std::vector<BeamPath>& all() { return all_; }

 private:
  int64_t width_;
  std::vector<BeamPath> all_;
};

// Ways to go on: the best so many, best first; of equal ones the lowest parent, then token.
class Extensions {
 public:
  struct One {
    double score;
    int64_t parent, token;
    bool operator<(const One& other) const {
      if (score != other.score) return score > other.score;
      return parent != other.parent ? parent < other.parent : token < other.token;
    }
  };

  // Only those above `limit`.
  void reset(int64_t width, double limit) {
    width_ = width, limit_ = limit;
    best_.clear();
  }
  void add(const One& one) {
    if (!(one.score > limit_)) return;
    const bool full = static_cast<int64_t>(best_.size()) == width_;
    if (full && !(one < best_.back())) return;
    if (full) best_.pop_back();
    best_.insert(std::upper_bound(best_.begin(), best_.end(), one), one);
  }
  const std::vector<One>& best() const { return best_; }
  void clear() { best_.clear(); }

 private:
  int64_t width_ = 0;
  double limit_ = 0;
  std::vector<One> best_;
};

}  // namespace FAST_S2S_ISA
}  // namespace fast_s2s
