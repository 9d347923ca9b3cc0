// Answers with llama.cpp through node-llama-cpp. Arguments: its folder, a GGUF file, sequences at once, tokens of each.
// stdin has a request on each line, {id, messages} for the tokens of a chat's prompt by the file's own template, or
// {id, prompt, limit} for the tokens that follow greedily, the one that ends them included. stdout has the replies,
// {id, tokens} in the order in which they are done; the first line says which version it is.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { join } from "node:path";

const [folder, file, sequences, length] = process.argv.slice(2);
const packaged = createRequire(join(folder, "package.json"));
const { getLlama } = await import(pathToFileURL(join(folder, "dist", "index.js")));
const { Template } = await import(pathToFileURL(packaged.resolve("@huggingface/jinja")));

const llama = await getLlama({ build: "never", gpu: false, logLevel: "error" });
const model = await llama.loadModel({ modelPath: file });
const context = await model.createContext({
  sequences: Number(sequences),
  contextSize: Number(length),
  threads: Number(process.env.OMP_NUM_THREADS) || undefined,
});
const { tokenizer, general } = model.fileInfo.metadata;
const reply = (answer) => process.stdout.write(JSON.stringify(answer) + "\n");

function promptOf(messages) {
  const token = (id) => (id === undefined || id === null ? "" : tokenizer.ggml.tokens[Number(id)]);
  const text = new Template(tokenizer.chat_template).render({
    messages,
    add_generation_prompt: true,
    bos_token: token(tokenizer.ggml.bos_token_id),
    eos_token: token(tokenizer.ggml.eos_token_id),
  });
  const tokens = model.tokenize(text, true);
  const { bos, shouldPrependBosToken } = model.tokens;
  return shouldPrependBosToken && tokens[0] !== bos ? [bos, ...tokens] : tokens;
}

const free = Array.from({ length: Number(sequences) }, () => context.getSequence());
const waiting = [];

async function serve(sequence) {
  for (let next = waiting.shift(); next; next = waiting.shift()) {
    const { id, prompt, limit } = next;
    const tokens = [];
    await sequence.clearHistory();
    for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
      tokens.push(token);
      if (model.isEogToken(token) || tokens.length === limit) break;
    }
    reply({ id, tokens });
  }
  free.push(sequence);
}

reply({ version: packaged("./package.json").version, architecture: general.architecture });
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  try {
    if (request.messages) reply({ id: request.id, tokens: promptOf(request.messages) });
    else {
      waiting.push(request);
      if (free.length) serve(free.pop()).catch((error) => reply({ id: request.id, error: String(error) }));
    }
  } catch (error) {
    reply({ id: request.id, error: String(error) });
  }
}
