"""The vLLM side of a rollout measurement. Runs in vLLM's own environment, so it imports nothing of this package."""

import contextlib
import json
import sys
import time


def main() -> None:
    job = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # vLLM's own lines
        from vllm import LLM, SamplingParams

        longest = max(map(len, job["prompts"]))
        llm = LLM(
            job["model"],
            dtype=job["dtype"],
            max_model_len=longest + job["tokens"] + 16,
            max_num_seqs=job["rows"],
            enable_prefix_caching=True,
            seed=0,
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
    print(json.dumps(times[1:]))


if __name__ == "__main__":
    main()
