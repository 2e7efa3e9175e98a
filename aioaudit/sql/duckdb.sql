-- For DuckDB; tested with 1.5 and 2.0. Functions that it calls otherwise than what follows.
CREATE OR REPLACE MACRO arrayJoin(list) AS unnest(list);
CREATE OR REPLACE MACRO arrayConcat(list, more) AS list_concat(list, more);
CREATE OR REPLACE MACRO argMin(what, by_what) AS arg_min(what, by_what);
CREATE OR REPLACE MACRO argMax(what, by_what) AS arg_max(what, by_what);
CREATE OR REPLACE MACRO has(list, what) AS coalesce(list_contains(list, what), false);
CREATE OR REPLACE MACRO indexOf(list, what) AS list_position(list, what);
CREATE OR REPLACE MACRO toString(what) AS CAST(what AS VARCHAR);
CREATE OR REPLACE MACRO toInt64OrNull(what) AS TRY_CAST(what AS BIGINT);

{lines}
