"""A trained model for other programs: a GGUF file for llama.cpp and Ollama, with proof.

export.py       the whole: merge, write, prove
gguf_file.py    weights and settings; vocabulary.py: tokens; quantize.py: weights in fewer bits
modelfile.py    Ollama's settings beside the file
llama_cpp.py    llama.cpp at work, which answers the problems of the proof; llama_cpp.mjs: the same through node
"""
