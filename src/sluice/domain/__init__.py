"""What a card authorization is and how it is judged. Pure: no clock, no network, no files."""
