"""The command `speech-zoo`: a file for each group of commands; main.py puts them together."""
