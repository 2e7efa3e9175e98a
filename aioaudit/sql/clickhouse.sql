-- For ClickHouse 24.10 or later (tested with 26.9).

{lines}
