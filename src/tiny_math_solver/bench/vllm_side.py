"""The vLLM side of a rollout measurement. Runs in vLLM's own environment, so it imports nothing of this package."""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    from vllm import LLM, SamplingParams

    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    longest = max(map(len, job["prompts"]))
    llm = LLM(
        str(folder),
        dtype=job["dtype"],
        max_model_len=longest + job["tokens"] + 16,
        max_num_seqs=job["rows"],
        enable_prefix_caching=True,
        seed=0,
        gpu_memory_utilization=0.5,  # of the memory of one node on a CPU; far more than these rows need
    )
    settings = SamplingParams(
        n=job["samples"], temperature=1.0, max_tokens=job["tokens"], ignore_eos=True, detokenize=False
    )
    prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
    times = []
    for _ in range(job["rounds"] + 1):
        started = time.perf_counter()
        made = llm.generate(prompts, settings, use_tqdm=False)
        times.append(time.perf_counter() - started)
        lengths = {len(completion.token_ids) for request in made for completion in request.outputs}
        assert lengths == {job["tokens"]}, f"completions of {lengths} tokens"
        assert sum(len(request.outputs) for request in made) == job["rows"]
    # a file: vLLM's processes write to every stream
    (folder / "times.json").write_text(json.dumps(times[1:]), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
