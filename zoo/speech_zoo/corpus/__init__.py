"""Corpora: the files of a manifest to a folder of Parquet, resumable."""
