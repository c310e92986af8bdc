#pragma once
// Text embeddings from any encoder of the model repository: a model that takes token ids and gives a vector a text, or one a token.
//
//   inputs   input_ids [batch, tokens]; attention_mask and token_type_ids of the same shape if the model has them; i64 or i32
//   outputs  the first of: f32 [batch, hidden] named sentence_embedding, embedding(s), text_embeds or pooler_output
//                          f32 [batch, tokens, hidden], averaged over the tokens that the mask counts
//
// A language model has no such output, and a classifier's scores are no embedding: both are refused with what would do.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/model.h"

namespace tokamak::server::openai {

class EmbeddingModel {
 public:
  // Throws ApiError saying what the model lacks.
  explicit EmbeddingModel(std::shared_ptr<Model> model);

  using Vectors = std::vector<std::vector<float>>;
  // One vector of length 1 (L2) for each row of ids, none of which is empty. `done` is called once, from any thread, with the vectors or an
  // error. `pad_id` fills shorter rows of a batch; `traceparent` goes with every execution.
  void embed(std::vector<std::vector<int32_t>> rows, int32_t pad_id, const std::string& traceparent,
             std::shared_ptr<Cancellation> cancellation, std::function<void(Vectors, const InferResponse* error)> done) const;

  // "" when the model can embed, else why not.
  static std::string why_not(const Model& model);

 private:
  std::shared_ptr<Model> model_;
  std::string output_;
  int64_t fixed_length_ = -1;  // tokens of a row, where the model does not leave it open
  size_t max_rows_ = 1;        // of one execution
};

}  // namespace tokamak::server::openai
