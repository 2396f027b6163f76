"""What a student may read: passages of a corpus, how they are found, and which ones support a rationale.

corpus.py      documents from the user's files, streamed
splitting.py   documents into passages of so many words
words.py       texts into the words that are searched
texts.py       many texts in a file, read one by one
shards.py      some passages and where each word occurs in them: a folder, whole or not at all
weights.py     BM25: what a word's occurrence is worth
building.py    `limbeck index`: shards, then the statistics of all of them, then weights
search.py      what any engine answers: `Search`
queries.py     queries as numbers of an index's words
bm25.py        our own engine, over such an index
milvus.py      Milvus as the engine, filled from such an index
engines.py     which of them answers
silver.py      the passages that support a rationale
quality.py     recall, hits, MRR, overlap
encoders.py    late-interaction encoders: a state for each token of a text
candidates.py  what a reranker learns from: lists of passages, scored for a rationale
scoring.py     how it scores them in training
ranking.py     its training
states.py      the states of passages, on the disk
residual.py    in fewer bytes, if wanted
rerank.py      a search whose best passages are put in order by a reranker
"""
