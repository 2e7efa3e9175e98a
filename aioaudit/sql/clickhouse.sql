-- For ClickHouse 24.10 or later.

{lines}
