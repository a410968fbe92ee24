"""Speed, memory and start on this machine, next to the originals: `speech-zoo bench`."""
