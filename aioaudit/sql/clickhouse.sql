-- For ClickHouse; tested with 26.9. It needs refreshable materialized views.

{lines}
