"""The pure middle: bytes and time go in, verdicts come out, and nothing here can touch the world."""
