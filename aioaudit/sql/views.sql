-- What a log answers, in SQL. It needs the table aioaudit_events: one row a line, a column a key.
--
-- What begins with aioaudit_ is for you; what begins with _aioaudit_ is a step on the way. seq and task
-- mean something together with run only. Where a line is missing the root cause is what = 'cancelled',
-- and nothing is guessed.
--
-- A chain ends where its process does: what led to it in another one (a client that left, a parent that
-- killed) no view tells, and reason = 'disconnect' says only that a peer went away, not why. `aioaudit why`
-- joins logs. Equal addresses or a trace in common are no proof: ports are used again, and a trace has many
-- requests.
--
-- `aioaudit sql` fills in what stands in braces, from the rules that `aioaudit why` follows, and gives a
-- TABLE the form that the engine needs. The rest is the same for all engines.


-- One row a run (the life of one process in its log).
CREATE OR REPLACE TABLE aioaudit_runs AS
WITH
    -- Dumps of a recorder have lines in common: of a number that comes again, with more, the most.
    losses AS (
        SELECT run, seq,
               max("count" - CASE WHEN coalesce(unneeded, 0) < "count" THEN coalesce(unneeded, 0)
                                  ELSE "count" END) AS lacking,
               max(coalesce(unneeded, 0)) AS thinned,
               max(length(faults)) AS faulty
        FROM aioaudit_events WHERE event = 'process.dropped' AND run IS NOT NULL GROUP BY run, seq
    ),
    lost AS (
        SELECT run, sum(lacking) AS lacking, max(thinned) AS thinned, max(faulty) AS faulty
        FROM losses GROUP BY run
    ),
    started AS (
        SELECT run, min(ts) AS ts, max(version) AS version, max(python) AS python,
               max(parent_run) AS parent_run, max(ppid) AS ppid,
               argMin(toString(argv), seq) AS argv,
               max(CASE WHEN has(coverage, {no_uncancels}) THEN 1 ELSE 0 END) AS no_uncancels,
               max(CASE WHEN has(coverage, {no_findings}) THEN 1 ELSE 0 END) AS no_findings
        FROM aioaudit_events WHERE event = 'process.start' GROUP BY run
    ),
    ended AS (
        SELECT run, max(ts) AS ts, max(dropped) AS dropped, max(length(faults)) AS faulty,
               max(signal) AS signal
        FROM aioaudit_events WHERE event = 'process.end' GROUP BY run
    ),
    every AS (
        SELECT run, max(pid) AS pid, min(ts) AS first_ts, max(ts) AS last_ts, count(*) AS n
        -- What ClickHouse was sent without them it has as empty text.
        FROM aioaudit_events WHERE event <> '' AND run <> '' GROUP BY run
    )
SELECT every.run AS run,
       every.pid AS pid,
       started.version AS version,
       started.python AS python,
       started.argv AS argv,
       started.ppid AS ppid,
       started.parent_run AS parent_run,
       started.ts AS started,
       ended.ts AS ended,
       ended.signal AS signal,
       every.first_ts AS first_ts,
       every.last_ts AS last_ts,
       every.n AS events,
       -- Events that the log says it lacks, and that an answer may need.
       CASE WHEN coalesce(ended.dropped, 0) > coalesce(lost.lacking, 0)
            THEN ended.dropped ELSE coalesce(lost.lacking, 0) END AS dropped,
       coalesce(lost.faulty, 0) > 0 OR coalesce(ended.faulty, 0) > 0 AS faulty,
       coalesce(lost.thinned, 0) > 0 AS thinned,
       coalesce(started.no_uncancels, 0) = 0 AS tells_uncancels,
       coalesce(started.no_findings, 0) = 0 AS tells_findings
FROM every
LEFT JOIN started ON started.run = every.run
LEFT JOIN ended ON ended.run = every.run
LEFT JOIN lost ON lost.run = every.run;


-- One row a request to cancel, of a task or of a future that tasks await.
CREATE OR REPLACE TABLE aioaudit_requests AS
SELECT run, pid, seq, ts, CAST(event AS {text}) AS event, task, name, coro, waiters, waiter_names,
       coalesce(accepted, event = 'future.cancel') AS accepted,
       coalesce(reason, 'unknown') AS reason, source, "at", library, library_at, "by", by_name,
       cause, behind, coalesce(taken_back, false) AS taken_back, message, suspended_at,
       coalesce(evidence, 'observed') AS evidence, detail, coalesce(cleanup, false) AS cleanup,
       origin, origin_task, origin_name, origin_reason, origin_source, origin_at, origin_library,
       origin_library_at, origin_by_name, origin_error, origin_signal, origin_seconds,
       origin_message, origin_detail, local, peer, trace_id, span_id, parent_span_id, span_kind,
       coalesce(trace_sampled, true) AS trace_sampled
FROM aioaudit_events
WHERE event IN ('task.cancel', 'future.cancel') AND run IS NOT NULL AND seq IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY run, seq ORDER BY ts) = 1;


-- How each task ended that did not simply return.
CREATE OR REPLACE TABLE _aioaudit_ends AS
SELECT run, pid, seq, ts, task, name, coro, outcome, error, error_at, cancel, cancel_outcome,
       swallowed_at, evidence, lifetime
FROM aioaudit_events
WHERE event = 'task.done' AND run IS NOT NULL AND task IS NOT NULL
  AND (outcome <> 'returned' OR cancel IS NOT NULL OR cancel_outcome IS NOT NULL)
QUALIFY row_number() OVER (PARTITION BY run, task ORDER BY seq DESC) = 1;


-- Those that a request had to do with, and that simply returned.
CREATE OR REPLACE TABLE _aioaudit_returned AS
WITH
    waiting AS (
        SELECT run, arrayJoin(waiters) AS task
        FROM aioaudit_requests WHERE event = 'future.cancel'
    ),
    named AS (
        SELECT run, task FROM aioaudit_requests WHERE task IS NOT NULL
        UNION DISTINCT
        SELECT run, "by" FROM aioaudit_requests WHERE "by" IS NOT NULL
        UNION DISTINCT
        SELECT run, task FROM waiting
    )
SELECT run, task, max(name) AS name
FROM aioaudit_events
WHERE event = 'task.done' AND outcome = 'returned' AND cancel IS NULL AND cancel_outcome IS NULL
  AND (run, task) IN (SELECT run, task FROM named)
GROUP BY run, task;


-- Which requests were taken back with uncancel(), for each task, and by which line.
CREATE OR REPLACE TABLE _aioaudit_taken_back AS
WITH
    calls AS (
        SELECT run, task, seq, cancel, "at", remaining
        FROM aioaudit_events
        WHERE event = 'task.uncancel' AND run IS NOT NULL
          -- A task group takes a request and gives it back at once.
          AND (cancel IS NOT NULL OR NOT coalesce(regexp_matches(source, {gives_back}), false))
    ),
    said AS (
        SELECT run, task, cancel AS seq, seq AS back_seq, "at", 1 AS named
        FROM calls WHERE cancel IS NOT NULL
    ),
    -- Where nothing remains, all that came before were taken back, whichever the line names.
    all_before AS (
        SELECT requests.run AS run, requests.task AS task, requests.seq AS seq,
               calls.seq AS back_seq, calls."at" AS "at", 0 AS named
        FROM aioaudit_requests AS requests
        JOIN calls ON calls.run = requests.run AND calls.task = requests.task
        WHERE calls.cancel IS NULL AND calls.remaining = 0 AND calls.seq > requests.seq
          AND requests.accepted
    ),
    both_ways AS (
        SELECT run, task, seq, back_seq, "at", named FROM said
        UNION ALL
        SELECT run, task, seq, back_seq, "at", named FROM all_before
    )
SELECT run, task, seq,
       min(back_seq) AS back_seq,
       CASE WHEN max(named) = 1 THEN max(CASE WHEN named = 1 THEN "at" END)
            ELSE argMin("at", back_seq) END AS "at"
FROM both_ways
GROUP BY run, task, seq;


-- The requests at which a trail ends: no other one led to them, or its line is not there. A cause comes
-- before what it led to, so one that does not is damage, and not followed.
CREATE OR REPLACE VIEW _aioaudit_last AS
SELECT requests.run AS run, requests.seq AS seq, requests."by" AS "by", requests.event AS event,
       requests.cleanup AS cleanup, requests.reason AS reason, requests.detail AS detail,
       requests.source AS source, requests.cause AS cause, requests.origin AS origin,
       requests.evidence AS evidence
FROM aioaudit_requests AS requests
LEFT JOIN aioaudit_requests AS causes
  ON causes.run = requests.run AND causes.seq = requests.cause
WHERE causes.seq IS NULL OR causes.seq >= requests.seq;


-- The step from each request to the one that led to it, and whether anything is concluded there: not
-- where the origin of the request tells the step better.
CREATE OR REPLACE TABLE _aioaudit_steps AS
SELECT requests.run AS run, requests.seq AS seq, causes.seq AS cause,
       requests.evidence = 'inferred' AS concluded,
       CASE WHEN causes.seq IS NULL THEN requests.evidence = 'inferred'
            ELSE causes.evidence = 'inferred'
                 AND (requests.origin IS NULL OR causes.origin IS NOT NULL) END AS guessed
FROM aioaudit_requests AS requests
LEFT JOIN aioaudit_requests AS causes
  ON causes.run = requests.run AND causes.seq = requests.cause AND causes.seq < requests.seq;


-- {stride} of these steps at once, or as many as there are. Engines are slow in rounds of a recursion,
-- and with strides of so many steps {most_steps} steps are {stride} rounds.
CREATE OR REPLACE TABLE _aioaudit_strides AS
WITH RECURSIVE
    strides AS (
        SELECT run, seq, seq AS last_seq, cause AS ahead, [seq] AS path, guessed
        FROM _aioaudit_steps
        UNION ALL
        SELECT strides.run, strides.seq, steps.seq, steps.cause,
               arrayConcat(strides.path, [steps.seq]), strides.guessed OR steps.guessed
        FROM _aioaudit_steps AS steps
        JOIN strides ON strides.run = steps.run AND strides.ahead = steps.seq
        WHERE length(strides.path) < {stride}
    )
SELECT run, seq, last_seq, ahead, path, guessed
FROM strides
WHERE ahead IS NULL OR length(path) = {stride};


-- From each request back to the last one that is known, over at most {most_steps} steps.
CREATE OR REPLACE TABLE _aioaudit_walk AS
WITH RECURSIVE
    walk AS (
        SELECT run, seq, last_seq AS root_seq, path, guessed
        FROM _aioaudit_strides
        WHERE ahead IS NULL
        UNION ALL
        SELECT strides.run, strides.seq, walk.root_seq, arrayConcat(strides.path, walk.path),
               strides.guessed OR walk.guessed
        FROM _aioaudit_strides AS strides
        JOIN walk ON walk.run = strides.run AND walk.seq = strides.ahead
        WHERE length(strides.path) + length(walk.path) <= {most_steps}
    )
SELECT walk.run AS run, walk.seq AS seq, walk.root_seq AS root_seq, walk.path AS path,
       steps.concluded OR walk.guessed AS guessed
FROM walk
JOIN _aioaudit_steps AS steps ON steps.run = walk.run AND steps.seq = walk.seq;


-- What each request says: the link that it is itself (place 1), what led to it where that was no
-- other request (2), and the gap behind that, for where the next line is not there (3).
CREATE OR REPLACE VIEW _aioaudit_links AS
WITH
    said AS (
        SELECT *,
               -- A scope of anyio makes up a message where nobody gave one.
               CASE WHEN message LIKE 'Cancelled by cancel scope %'
                      OR message LIKE 'Cancelled via cancel scope %'
                    THEN NULL ELSE message END AS given,
               -- Plain code that called is the same call as the request, which says the rest of it.
               origin = 'called' AS same,
               origin = 'called' AND origin_source IS NULL AND origin_at IS NULL AS same_line
        FROM aioaudit_requests
    )
SELECT run, seq, 1 AS place, 'cancelled' AS what,
       CASE WHEN event = 'task.cancel' THEN task END AS task,
       CASE WHEN event = 'task.cancel' THEN name END AS name,
       reason, source, "at", by_name,
       CAST(NULL AS {text}) AS error, CAST(NULL AS {text}) AS signal,
       CAST(NULL AS {number}) AS seconds,
       given AS message, library, library_at, detail
FROM said
UNION ALL
SELECT run, seq, 2, origin, origin_task, origin_name,
       CASE WHEN same THEN coalesce(nullif(origin_reason, ''), reason) ELSE origin_reason END,
       CASE WHEN same_line THEN source ELSE origin_source END,
       CASE WHEN same_line THEN "at" ELSE origin_at END,
       CASE WHEN same THEN coalesce(nullif(origin_by_name, ''), by_name) ELSE origin_by_name END,
       origin_error, origin_signal, origin_seconds,
       CASE WHEN same_line THEN coalesce(nullif(origin_message, ''), given) ELSE origin_message END,
       CASE WHEN same_line THEN library ELSE origin_library END,
       CASE WHEN same_line THEN library_at ELSE origin_library_at END,
       origin_detail
FROM said WHERE origin IS NOT NULL
UNION ALL
SELECT run, seq, 3, 'cancelled', NULL, NULL, 'unknown', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       NULL, 'the line with seq ' || toString(cause) || ', which would say why, is missing'
FROM said WHERE origin IS NOT NULL AND cause IS NOT NULL;


-- The root causes that requests lead to: the last link of their chains, one row for each last request.
CREATE OR REPLACE TABLE _aioaudit_roots AS
WITH
    last_ones AS (
        SELECT run, seq, "by" AS called_by, event, cleanup, reason AS last_reason,
               detail AS last_detail, source AS last_source,
               CASE WHEN origin IS NULL THEN 1 WHEN cause IS NULL THEN 2 ELSE 3 END AS place,
               CASE WHEN origin IS NULL AND cause IS NOT NULL
                    THEN 'the line with seq ' || toString(cause)
                         || ', which would say why, is missing' END AS missing
        FROM _aioaudit_last
    ),
    links AS (
        SELECT last_ones.run AS run, last_ones.seq AS seq, last_ones.called_by AS called_by,
               last_ones.event AS event, last_ones.cleanup AS cleanup,
               last_ones.last_reason AS last_reason, last_ones.last_detail AS last_detail,
               last_ones.last_source AS last_source,
               links.what AS what, links.task AS task, links.name AS name, links.reason AS reason,
               links.source AS source, links."at" AS "at", links.by_name AS by_name,
               links.error AS error, links.signal AS signal, links.seconds AS seconds,
               links.message AS message, links.library AS library, links.library_at AS library_at,
               CASE WHEN last_ones.missing IS NULL THEN links.detail
                    ELSE coalesce(links.detail || '; ', '') || last_ones.missing END AS detail
        FROM last_ones
        JOIN _aioaudit_links AS links
          ON links.run = last_ones.run AND links.seq = last_ones.seq
         AND links.place = last_ones.place
    ),
    told AS (
        -- What tells this cause from another one at the same line: a task fails once and a process
        -- ends once, but the same timeout or the same call happens again and again.
        SELECT *,
               what <> 'cancelled' AND coalesce(reason, '') <> 'unknown' AS known,
               CASE WHEN what IN ('deadline', 'cancelled') THEN seq
                    WHEN what = 'called' OR (what = 'failed' AND task IS NULL) THEN called_by
               END AS occasion,
               CASE WHEN "at" IS NULL THEN '' ELSE ' at ' || "at" END AS place,
               CASE WHEN library IS NULL THEN NULL WHEN library_at IS NULL THEN library
                    ELSE library || ' (' || regexp_replace(library_at, {packages}, '') || ')'
               END AS through
        FROM links
    )
SELECT *,
       min(seq) OVER same AS incident,
       -- Where a loop's callback called, each of its calls counts for itself.
       CASE WHEN what = 'called' AND occasion IS NULL THEN seq ELSE min(seq) OVER same END AS closely,
       CASE WHEN NOT known THEN
                'unknown: ' || coalesce(detail, 'the log does not say who asked')
                || CASE WHEN reason <> 'unknown'
                        THEN '; the last that is known is a request with reason ' || reason
                        ELSE '' END
                || CASE WHEN "at" IS NULL THEN '' ELSE '; it was made at ' || "at" END
            ELSE
                CASE what
                    WHEN 'deadline' THEN
                        CASE WHEN seconds IS NULL THEN 'a timeout'
                             ELSE 'the timeout of ' || printf('%g', seconds) || ' s' END
                        || place || ' ran out'
                    WHEN 'failed' THEN
                        coalesce(name, 'a block') || ' failed' || coalesce(' with ' || error, '') || place
                    WHEN 'signal' THEN
                        'the process received ' || coalesce(nullif(signal, ''), 'a signal')
                        || CASE WHEN "at" IS NULL THEN ''
                                ELSE ' (handler' || place || coalesce(', by ' || through, '') || ')' END
                    WHEN 'shutdown' THEN
                        CASE WHEN detail IS NULL THEN 'asyncio.run' ELSE 'the loop' END
                        || place || ' ended and cancelled what was left'
                    ELSE
                        CASE WHEN reason = 'native'
                                 THEN 'native code called cancel()' || place || ', below any Python frame'
                             WHEN reason = 'disconnect'
                                 THEN 'a peer went away, which made '
                                      || coalesce(nullif(source, ''), 'plain code')
                                      || ' call cancel()' || place
                             ELSE
                                 CASE WHEN through IS NULL
                                          THEN coalesce(nullif(source, ''), 'plain code')
                                               || ' called cancel()' || place
                                      ELSE through || ' cancelled it, called from '
                                           || coalesce(nullif(source, ''), 'plain code') || place END
                                 || coalesce(CASE WHEN reason = 'thread' THEN ' in thread '
                                                  ELSE ' in task ' END || by_name, '')
                                 || CASE WHEN reason IS NULL OR reason IN ('explicit', 'thread') THEN ''
                                         ELSE ' (reason ' || reason || ')' END
                        END
                        || coalesce(' (message: ' || message || ')', '')
                END
                || coalesce(' (' || detail || ')', '')
       END AS cause
FROM told
WINDOW same AS (
    PARTITION BY run, what, task, name, reason, source, "at", by_name, error, signal, seconds,
                 message, library, library_at, detail, occasion
);


-- Which request each cancelled task is about: the one that it obeyed, or is to obey.
CREATE OR REPLACE TABLE _aioaudit_cases AS
WITH
    asked AS (
        SELECT run, task, min(seq) AS first_seq, max(seq) AS last_seq,
               max(CASE WHEN accepted AND behind IS NULL THEN seq END) AS newest,
               max(pid) AS pid
        FROM aioaudit_requests WHERE event = 'task.cancel' GROUP BY run, task
    ),
    waiting AS (
        SELECT run, seq, pid, arrayJoin(waiters) AS task
        FROM aioaudit_requests WHERE event = 'future.cancel'
    ),
    waited AS (
        SELECT run, task, min(seq) AS first_seq, max(seq) AS last_seq, max(pid) AS pid
        FROM waiting GROUP BY run, task
    ),
    -- What was asked since the last one that was delivered: one that was not is named by the next
    -- (behind). Of these the first that stands, else the last that was taken back.
    open_ones AS (
        SELECT requests.run AS run, requests.task AS task, requests.seq AS seq,
               back.back_seq AS back_seq,
               row_number() OVER (
                   PARTITION BY requests.run, requests.task
                   ORDER BY coalesce(back.back_seq, -1) DESC, requests.seq DESC
               ) AS from_last,
               -- Where uncancel() is not in the log, whoever takes back its own is believed to,
               -- if there is another one.
               CASE WHEN requests.taken_back AND NOT runs.tells_uncancels THEN 1 ELSE 0 END AS own
        FROM aioaudit_requests AS requests
        JOIN asked ON asked.run = requests.run AND asked.task = requests.task
        JOIN aioaudit_runs AS runs ON runs.run = requests.run
        LEFT JOIN _aioaudit_taken_back AS back
          ON back.run = requests.run AND back.task = requests.task AND back.seq = requests.seq
        WHERE requests.event = 'task.cancel' AND requests.accepted
          AND requests.seq >= coalesce(asked.newest, 0)
    ),
    standing AS (
        SELECT run, task,
               min(CASE WHEN back_seq IS NULL AND own = 0 THEN seq END) AS stands,
               min(CASE WHEN back_seq IS NULL THEN seq END) AS stands_own,
               max(CASE WHEN from_last = 1 THEN seq END) AS taken
        FROM open_ones GROUP BY run, task
    ),
    -- A line of uncancel() that does not say what it took back, while something remains.
    unclear AS (
        SELECT DISTINCT run, task FROM aioaudit_events
        WHERE event = 'task.uncancel' AND cancel IS NULL AND remaining > 0
          AND NOT coalesce(regexp_matches(source, {gives_back}), false)
    ),
    every AS (
        SELECT run, task FROM asked
        UNION DISTINCT
        SELECT run, task FROM waited
        UNION DISTINCT
        SELECT run, task FROM _aioaudit_ends
        WHERE cancel IS NOT NULL OR cancel_outcome IS NOT NULL
    ),
    named AS (
        SELECT run, task, argMax(name, seq) AS name, argMax(coro, seq) AS coro
        FROM aioaudit_events
        WHERE event IN ('task.cancel', 'task.uncancel') AND run IS NOT NULL GROUP BY run, task
    ),
    made AS (
        SELECT run, task, argMax(name, seq) AS name, argMax(coro, seq) AS coro
        FROM aioaudit_events
        WHERE event IN ('task.create', 'task.found')
          AND (run, task) IN (SELECT run, task FROM waited)
        GROUP BY run, task
    ),
    of_waiters AS (
        SELECT waited.run AS run, waited.task AS task,
               requests.waiter_names[indexOf(requests.waiters, waited.task)] AS name
        FROM waited
        JOIN aioaudit_requests AS requests
          ON requests.run = waited.run AND requests.seq = waited.first_seq
    ),
    chosen AS (
        SELECT every.run AS run, every.task AS task,
               ends.seq AS end_seq,
               ends.cancel IS NULL AND ends.cancel_outcome IS NOT NULL AS unseen,
               CASE WHEN ends.cancel IS NOT NULL THEN ends.cancel
                    WHEN ends.cancel_outcome IS NOT NULL THEN NULL
                    WHEN standing.task IS NOT NULL THEN
                        CASE WHEN unclear.task IS NOT NULL THEN NULL
                             ELSE coalesce(standing.stands, standing.stands_own, standing.taken) END
                    WHEN ends.task IS NULL AND returned.task IS NULL THEN waited.last_seq
               END AS seq,
               ends.cancel IS NULL AND standing.task IS NOT NULL AND unclear.task IS NOT NULL AS unclear,
               returned.task IS NOT NULL AS returned,
               returned.name AS returned_name,
               asked.first_seq AS asked_first, waited.first_seq AS waited_first,
               coalesce(asked.pid, waited.pid, ends.pid) AS pid
        FROM every
        LEFT JOIN asked ON asked.run = every.run AND asked.task = every.task
        LEFT JOIN waited ON waited.run = every.run AND waited.task = every.task
        LEFT JOIN standing ON standing.run = every.run AND standing.task = every.task
        LEFT JOIN unclear ON unclear.run = every.run AND unclear.task = every.task
        LEFT JOIN _aioaudit_ends AS ends ON ends.run = every.run AND ends.task = every.task
        LEFT JOIN _aioaudit_returned AS returned
          ON returned.run = every.run AND returned.task = every.task
    )
SELECT chosen.run AS run,
       chosen.pid AS pid,
       chosen.task AS task,
       CASE WHEN ends.task IS NOT NULL THEN ends.name
            WHEN named.task IS NOT NULL THEN coalesce(chosen.returned_name, named.name)
            WHEN made.task IS NOT NULL THEN made.name
            ELSE coalesce(of_waiters.name, '') END AS name,
       CASE WHEN ends.task IS NOT NULL THEN ends.coro
            WHEN named.task IS NOT NULL THEN named.coro
            WHEN made.task IS NOT NULL THEN made.coro
            ELSE '' END AS coro,
       CASE WHEN ends.task IS NULL AND chosen.returned THEN 'returned'
            WHEN ends.task IS NULL OR ends.outcome = 'destroyed' THEN 'pending'
            ELSE ends.outcome END AS outcome,
       CASE WHEN ends.task IS NOT NULL THEN ends.cancel_outcome
            WHEN NOT chosen.returned AND back.seq IS NOT NULL THEN 'absorbed' END AS cancel_outcome,
       requests.seq AS cancel,
       CASE WHEN requests.seq IS NULL THEN chosen.seq END AS lost,
       chosen.unclear AS unclear,
       requests.ts AS requested,
       ends.ts AS ended,
       ends.lifetime AS lifetime,
       ends.error AS error,
       ends.error_at AS error_at,
       ends.swallowed_at AS swallowed_at,
       coalesce(ends.evidence = 'inferred', false) AS concluded,
       coalesce(requests.event = 'future.cancel', false) AS of_future,
       coalesce(requests.task = chosen.task AND requests.event = 'task.cancel', false) AS own,
       requests.reason AS reason,
       requests."at" AS "at",
       requests.suspended_at AS suspended_at,
       requests.cause AS cause,
       requests.source AS source,
       requests.cleanup AS cleanup,
       requests."by" AS "by",
       back.seq IS NOT NULL AS is_back,
       back."at" AS back_at,
       chosen.asked_first AS asked_first,
       chosen.waited_first AS waited_first
FROM chosen
LEFT JOIN _aioaudit_ends AS ends ON ends.run = chosen.run AND ends.task = chosen.task
LEFT JOIN aioaudit_requests AS requests
  ON requests.run = chosen.run AND requests.seq = chosen.seq
LEFT JOIN _aioaudit_taken_back AS back
  ON back.run = chosen.run AND back.task = chosen.task AND back.seq = chosen.seq
LEFT JOIN named ON named.run = chosen.run AND named.task = chosen.task
LEFT JOIN made ON made.run = chosen.run AND made.task = chosen.task
LEFT JOIN of_waiters ON of_waiters.run = chosen.run AND of_waiters.task = chosen.task
WHERE chosen.seq IS NOT NULL OR chosen.unseen OR chosen.unclear;


-- One row a cancelled task, with its root cause.
CREATE OR REPLACE TABLE _aioaudit_answers AS
WITH
    -- What was taken back, but only after code had kept the error.
    kept AS (
        SELECT run, task, cancel, argMin(coalesce(swallowed_at, ''), seq) AS swallowed_at
        FROM aioaudit_events
        WHERE event = 'finding' AND kind = 'swallowed' AND severity = 'finding'
        GROUP BY run, task, cancel
    )
SELECT cases.run AS run,
       cases.pid AS pid,
       cases.task AS task,
       cases.name AS name,
       cases.coro AS coro,
       coalesce(cases.requested, cases.ended) AS ts,
       cases.outcome AS outcome,
       cases.cancel_outcome AS cancel_outcome,
       coalesce(cases.cancel_outcome = 'absorbed', false) AND kept.run IS NOT NULL AS kept,
       CASE WHEN coalesce(cases.cancel_outcome = 'absorbed', false) AND kept.run IS NOT NULL
            THEN nullif(kept.swallowed_at, '') ELSE cases.swallowed_at END AS swallowed_at,
       cases.cancel AS cancel,
       cases.requested AS requested,
       cases.ended AS ended,
       cases.lifetime AS lifetime,
       cases.error AS error,
       cases.error_at AS error_at,
       cases.reason AS reason,
       cases."at" AS "at",
       cases.source AS source,
       cases."by" AS "by",
       cases.suspended_at AS suspended_at,
       cases.own AS own,
       cases.of_future AS of_future,
       cases.cause AS request_cause,
       cases.cleanup AS cleanup,
       cases.swallowed_at AS end_swallowed_at,
       -- In which order `aioaudit why` comes across them.
       coalesce(cases.asked_first, 1000000000000 + cases.waited_first,
                2000000000000 + cases.task) AS place_in_log,
       roots.closely AS closely,
       roots.called_by AS last_by,
       roots.event AS last_event,
       roots.cleanup AS last_cleanup,
       roots.last_reason AS last_reason,
       roots.last_detail AS last_detail,
       roots.last_source AS last_source,
       coalesce(roots.known, false) AS known,
       cases.cancel IS NOT NULL AND (cases.concluded OR coalesce(walk.guessed, false)) AS inferred,
       coalesce(roots.incident, -cases.task - 1) AS incident,
       walk.root_seq AS root_seq,
       coalesce(roots.what, 'cancelled') AS root_what,
       CASE WHEN roots.run IS NULL THEN cases.task ELSE roots.task END AS root_task,
       CASE WHEN roots.run IS NULL THEN cases.name ELSE roots.name END AS root_name,
       CASE WHEN roots.run IS NULL THEN 'unknown' ELSE roots.reason END AS root_reason,
       roots.source AS root_source,
       roots."at" AS root_at,
       roots.by_name AS root_by_name,
       roots.error AS root_error,
       roots.signal AS root_signal,
       roots.seconds AS root_seconds,
       roots.message AS root_message,
       roots.library AS root_library,
       roots.library_at AS root_library_at,
       CASE WHEN roots.run IS NOT NULL THEN roots.detail
            WHEN cases.lost IS NOT NULL
                THEN 'the line with seq ' || toString(cases.lost) || ', which would say why, is missing'
            WHEN cases.unclear THEN 'the log does not say which request was taken back'
            WHEN cases.cancel IS NOT NULL THEN 'the chain has more than {most_steps} steps'
       END AS root_detail,
       coalesce(
           roots.cause,
           'unknown: '
           || CASE WHEN cases.lost IS NOT NULL
                       THEN 'the line with seq ' || toString(cases.lost)
                            || ', which would say why, is missing'
                   WHEN cases.unclear THEN 'the log does not say which request was taken back'
                   WHEN cases.cancel IS NOT NULL THEN 'the chain has more than {most_steps} steps'
                   ELSE 'the log does not say who asked' END
       ) AS cause
FROM _aioaudit_cases AS cases
LEFT JOIN _aioaudit_walk AS walk ON walk.run = cases.run AND walk.seq = cases.cancel
LEFT JOIN _aioaudit_roots AS roots ON roots.run = cases.run AND roots.seq = walk.root_seq
LEFT JOIN kept ON kept.run = cases.run AND kept.task = cases.task AND kept.cancel = cases.cancel;


-- What kind of housekeeping each request may be, by its root cause, and whether a deadline ended no
-- more than a wait of the very block that had it.
CREATE OR REPLACE TABLE _aioaudit_kinds AS
WITH
    failed_runs AS (
        -- Runs in which a task failed that asyncio.run was given.
        SELECT DISTINCT run FROM aioaudit_events
        WHERE event = 'task.create' AND parent IS NULL AND "at" IS NULL
          AND (run, task) IN (SELECT run, task FROM _aioaudit_ends WHERE outcome <> 'returned')
    ),
    roots AS (
        SELECT roots.run AS run, roots.seq AS seq,
               CASE WHEN NOT roots.known THEN NULL
                    WHEN roots.what = 'shutdown' AND roots.reason = 'shutdown'
                         AND failed_runs.run IS NULL THEN 'shutdown'
                    WHEN roots.reason NOT IN {jobs} AND regexp_matches(roots.reason, {word})
                        THEN roots.reason
                    WHEN roots.what = 'deadline'
                        THEN CASE WHEN roots.reason IN ('timeout', 'scope') THEN 'timeout' END
                    WHEN roots.what = 'called' AND roots.reason = 'disconnect' THEN 'idle'
                    WHEN roots.what = 'failed'
                         AND regexp_extract(roots.source, '^[^.:]*', 0) IN {own_libraries}
                         AND regexp_matches(roots."at", {library_path})
                        THEN {errors}
               END AS kind
        FROM _aioaudit_roots AS roots
        LEFT JOIN failed_runs ON failed_runs.run = roots.run
    )
SELECT requests.run AS run, requests.task AS task, requests.seq AS seq, requests.event AS event,
       requests.accepted AS accepted, requests.behind AS behind,
       roots.kind AS kind,
       back.seq IS NOT NULL AS is_back,
       coalesce(
           requests.cause IS NULL AND back."at" = requests."at"
           AND CASE WHEN regexp_matches(requests."at", {library_path})
                    THEN regexp_matches(requests.suspended_at, {library_path})
                    ELSE regexp_extract(requests."at", '^(.*):[0-9]+$', 1) <> ''
                     AND regexp_extract(requests."at", '^(.*):[0-9]+$', 1)
                         = regexp_extract(requests.suspended_at, '^(.*):[0-9]+$', 1)
                     AND toInt64OrNull(regexp_extract(requests.suspended_at, ':([0-9]+)$', 1))
                         - toInt64OrNull(regexp_extract(requests."at", ':([0-9]+)$', 1))
                         BETWEEN 0 AND {body}
               END,
           false
       ) AS polled
FROM aioaudit_requests AS requests
LEFT JOIN _aioaudit_walk AS walk ON walk.run = requests.run AND walk.seq = requests.seq
LEFT JOIN roots ON roots.run = walk.run AND roots.seq = walk.root_seq
LEFT JOIN _aioaudit_taken_back AS back
  ON back.run = requests.run AND back.task = requests.task AND back.seq = requests.seq;


-- What each cancelled task says for or against its being housekeeping.
CREATE OR REPLACE TABLE _aioaudit_judged AS
WITH
    kinds AS (SELECT * FROM _aioaudit_kinds),
    -- Asked by somebody else, too, who may have done harm.
    otherwise AS (
        SELECT DISTINCT answers.run AS run, answers.task AS task
        FROM _aioaudit_answers AS answers
        JOIN kinds ON kinds.run = answers.run AND kinds.task = answers.task
        WHERE kinds.event = 'task.cancel' AND kinds.accepted
          AND kinds.seq <> coalesce(answers.cancel, -1)
          AND ((NOT kinds.is_back AND kinds.behind IS NULL) OR kinds.kind IS NULL
               OR (kinds.kind = 'timeout' AND NOT kinds.polled))
    ),
    faulty AS (
        SELECT DISTINCT run, task FROM aioaudit_events
        WHERE event = 'finding' AND severity = 'finding' AND kind <> 'slow'
    ),
    -- What a library is known to leave to the end of its loop, which has come.
    left_over AS (
        SELECT DISTINCT run, task FROM aioaudit_events
        WHERE event = 'finding' AND severity = 'note' AND kind = 'pending'
    ),
    made AS (
        SELECT run, task, max(parent) AS maker, max(source) AS made_in
        FROM aioaudit_events
        WHERE event = 'task.create' AND (run, task) IN (SELECT run, task FROM _aioaudit_ends)
        GROUP BY run, task
    ),
    facts AS (
        SELECT answers.run AS run, answers.task AS task, answers.closely AS closely,
               answers.place_in_log AS place_in_log,
               kinds.kind AS kind,
               kinds.polled AS polled,
               answers.cancel IS NOT NULL AND NOT answers.inferred AND otherwise.task IS NULL AS plain,
               faulty.task IS NOT NULL AS faulty,
               coalesce(answers.cancel_outcome = 'absorbed'
                        AND answers.outcome IN ('returned', 'pending'), false) AS went_on,
               coalesce(answers.cancel_outcome = 'obeyed', false) AS obeyed,
               coalesce(answers.cancel_outcome = 'swallowed' AND answers.outcome = 'returned',
                        false) AS gave_in,
               coalesce(answers.cancel_outcome = 'swallowed', false) AS swallowed,
               left_over.task IS NOT NULL AS left_over,
               made.task IS NOT NULL AS is_made,
               made.maker AS maker, made.made_in AS made_in,
               answers.own AS own, answers.of_future AS of_future,
               answers.suspended_at AS suspended_at,
               answers.suspended_at IS NOT NULL
                   AND regexp_matches(coalesce(answers.suspended_at, ''), {library_path}) AS in_library,
               regexp_matches(coalesce(answers.end_swallowed_at, ''), {library_path}) AS kept_in_library,
               answers.coro AS coro,
               regexp_extract(answers.coro, '^[^.:]*', 0) AS package,
               regexp_extract(answers.root_source, '^[^.:]*', 0) AS root_package,
               CASE WHEN kinds.kind LIKE '%.%'
                    THEN regexp_extract(answers.root_reason, '^[^.:]*', 0) END AS of_package,
               answers.request_cause AS cause, answers.cleanup AS cleanup,
               answers.source AS source, answers."by" AS "by", answers.cancel AS cancel,
               CASE WHEN answers.last_event = 'task.cancel' AND answers.last_reason = 'explicit'
                         AND answers.last_detail IS NULL AND answers.root_what = 'called'
                         AND answers.root_detail IS NULL AND answers.root_library IS NULL
                         AND (answers.last_cleanup
                              OR trim(BOTH '_' FROM regexp_extract(
                                     coalesce(answers.last_source, ''), '[^.:]*$', 0))
                                 IN {ends_object_or_stops})
                    THEN answers.last_by END AS asker
        FROM _aioaudit_answers AS answers
        LEFT JOIN kinds ON kinds.run = answers.run AND kinds.seq = answers.cancel
        LEFT JOIN otherwise ON otherwise.run = answers.run AND otherwise.task = answers.task
        LEFT JOIN faulty ON faulty.run = answers.run AND faulty.task = answers.task
        LEFT JOIN left_over ON left_over.run = answers.run AND left_over.task = answers.task
        LEFT JOIN made ON made.run = answers.run AND made.task = answers.task
        WHERE answers.run NOT IN (SELECT run FROM aioaudit_runs WHERE dropped > 0 OR faulty OR thinned)
          AND answers.closely IS NOT NULL
    ),
    judged AS (
        SELECT *,
               -- It served a connection, and waited for the next request in a line of its own.
               coalesce(coro IN {connections} AND obeyed
                        AND (of_future
                             OR (in_library
                                 AND regexp_replace(suspended_at, ':[0-9]+$', '')
                                     LIKE '%' || replace(regexp_extract(coro, '^[^:]*', 0), '.', '_')
                                          || '.py')), false) AS idle,
               -- A library runs it beside something, and nothing of the application is in it.
               coalesce(own
                        AND CASE WHEN swallowed THEN gave_in AND kept_in_library
                                 ELSE obeyed OR left_over END
                        AND CASE WHEN suspended_at IS NULL
                                     THEN package = of_package AND coro NOT IN {run_others}
                                 WHEN NOT in_library THEN false
                                 WHEN of_package IS NULL
                                     THEN (package IN {own_libraries} OR package = 'asyncio')
                                          AND coro NOT IN {run_others}
                                 ELSE package = of_package OR package IN ('anyio', 'asyncio')
                            END, false) AS helper
        FROM facts
    ),
    allowed AS (
        SELECT *,
               plain AND (
                   went_on
                   OR CASE kind WHEN 'shutdown' THEN (of_future OR suspended_at IS NOT NULL)
                                                     AND obeyed AND is_made
                                WHEN 'idle' THEN idle
                                ELSE helper OR (kind IN {idle_words} AND idle) END
               ) AS fine
        FROM judged
    )
SELECT *,
       min(CASE WHEN faulty THEN 0 ELSE 1 END) OVER incident = 0 AS faulty_incident,
       CASE WHEN min(CASE WHEN fine AND NOT faulty THEN 1 ELSE 0 END) OVER incident = 0 THEN NULL
            WHEN kind = 'timeout' AND (
                max(CASE WHEN went_on THEN 1 ELSE 0 END) OVER incident = 0
                OR min(CASE WHEN went_on AND NOT polled THEN 0 ELSE 1 END) OVER incident = 0) THEN NULL
            WHEN kind = 'group'
                 AND max(CASE WHEN went_on AND package = root_package THEN 1 ELSE 0 END)
                     OVER incident = 0 THEN NULL
            WHEN kind = 'idle' AND max(CASE WHEN went_on THEN 1 ELSE 0 END) OVER incident = 1 THEN NULL
            ELSE kind END AS settled,
       first_value(asker) OVER (PARTITION BY run, closely ORDER BY place_in_log
                                ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS asked_by
FROM allowed
WINDOW incident AS (PARTITION BY run, closely);


-- What may have been ended by the task that had made it, beside its work.
CREATE OR REPLACE TABLE _aioaudit_beside AS
SELECT run, task, closely, maker, made_in, asked_by, plain, own, suspended_at, obeyed, gave_in,
       cause, cleanup, source, "by", cancel
FROM _aioaudit_judged
WHERE settled IS NULL AND NOT faulty_incident AND asked_by IS NOT NULL;


-- The incidents of those in which all tasks were, as far as they tell.
CREATE OR REPLACE TABLE _aioaudit_cleanups AS
WITH
    makers_of AS (SELECT run, closely, task FROM _aioaudit_beside),
    asked AS (SELECT DISTINCT run, task FROM aioaudit_requests WHERE event = 'task.cancel'),
    returned AS (
        SELECT run, task FROM _aioaudit_returned
        WHERE (run, task) IN (SELECT run, asked_by FROM _aioaudit_beside)
    ),
    last_made AS (
        SELECT run, parent, max(seq) AS seq FROM aioaudit_events
        WHERE event = 'task.create' AND (run, parent) IN (SELECT run, "by" FROM _aioaudit_beside)
        GROUP BY run, parent
    ),
    told AS (
        SELECT beside.run AS run, beside.closely AS closely, beside.asked_by AS asked_by,
               min(CASE WHEN returned.task IS NOT NULL AND asked.task IS NULL
                         AND beside.own AND beside.suspended_at IS NOT NULL AND beside.plain
                         AND (beside.obeyed OR beside.gave_in)
                         AND CASE WHEN beside.cause IS NOT NULL THEN makers_of.task IS NOT NULL
                                  WHEN coalesce(beside.maker <> beside.asked_by, true) THEN false
                                  WHEN beside.cleanup
                                       AND regexp_replace(coalesce(beside.made_in, ''),
                                                          {comprehension}, '') = beside.source
                                      THEN true
                                  ELSE coalesce(
                                      regexp_matches(beside.source, ':.*[.]')
                                      AND NOT regexp_matches(beside.source, '<locals>[.][^.]*$')
                                      AND regexp_extract(beside.source, '^(.*)[.]', 1)
                                          = regexp_extract(beside.made_in, '^(.*)[.]', 1)
                                      AND (trim(BOTH '_' FROM
                                                regexp_extract(beside.source, '[^.:]*$', 0))
                                               IN {ends_object}
                                           OR coalesce(last_made.seq, 0) < beside.cancel), false)
                             END
                        THEN 1 ELSE 0 END) AS good
        FROM _aioaudit_beside AS beside
        LEFT JOIN returned ON returned.run = beside.run AND returned.task = beside.asked_by
        LEFT JOIN asked ON asked.run = beside.run AND asked.task = beside.asked_by
        LEFT JOIN makers_of ON makers_of.run = beside.run AND makers_of.closely = beside.closely
                           AND makers_of.task = beside.maker
        LEFT JOIN last_made ON last_made.run = beside.run AND last_made.parent = beside."by"
        GROUP BY beside.run, beside.closely, beside.asked_by
    )
SELECT run, closely, asked_by FROM told WHERE good = 1;


-- The cancelled tasks that a program is none the worse for, and what kind of housekeeping that is: the
-- rules of docs/why.md.
CREATE OR REPLACE VIEW _aioaudit_housekeeping AS
WITH
    -- Those who asked had made something else, too, that did not return and is no housekeeping.  This
    -- says it of all that they ended: what one of them had made is in no other's incident that is good.
    worse AS (
        SELECT good.run AS run, good.closely AS closely
        FROM _aioaudit_cleanups AS good
        JOIN (SELECT run, task, max(parent) AS maker FROM aioaudit_events
              WHERE event = 'task.create'
                AND (run, task) IN (SELECT run, task FROM _aioaudit_ends
                                    WHERE outcome <> 'returned')
              GROUP BY run, task) AS made
          ON made.run = good.run AND made.maker = good.asked_by
        LEFT JOIN _aioaudit_judged AS judged ON judged.run = made.run AND judged.task = made.task
        LEFT JOIN _aioaudit_cleanups AS inside
          ON inside.run = judged.run AND inside.closely = judged.closely
        WHERE judged.settled IS NULL AND inside.closely IS NULL
    )
SELECT run, task, settled AS kind FROM _aioaudit_judged WHERE settled IS NOT NULL
UNION ALL
SELECT judged.run, judged.task, 'cleanup'
FROM _aioaudit_judged AS judged
JOIN _aioaudit_cleanups AS good ON good.run = judged.run AND good.closely = judged.closely
WHERE judged.settled IS NULL
  AND (good.run, good.closely) NOT IN (SELECT run, closely FROM worse);


-- One row a cancelled task: what `aioaudit why --json` says of it, but for the links in between.
CREATE OR REPLACE TABLE aioaudit_cancelled AS
SELECT answers.run AS run, answers.pid AS pid, answers.task AS task, answers.name AS name,
       answers.coro AS coro, answers.ts AS ts, answers.outcome AS outcome,
       answers.cancel_outcome AS cancel_outcome, answers.kept AS kept,
       answers.swallowed_at AS swallowed_at, answers.cancel AS cancel,
       answers.requested AS requested, answers.ended AS ended, answers.lifetime AS lifetime,
       answers.error AS error, answers.error_at AS error_at, answers.reason AS reason,
       answers."at" AS "at", answers.source AS source, answers."by" AS "by",
       answers.suspended_at AS suspended_at, answers.known AS known, answers.inferred AS inferred,
       housekeeping.kind AS housekeeping,
       answers.incident AS incident, answers.cause AS cause, answers.root_what AS root_what,
       answers.root_task AS root_task, answers.root_name AS root_name,
       answers.root_reason AS root_reason, answers.root_source AS root_source,
       answers.root_at AS root_at, answers.root_by_name AS root_by_name,
       answers.root_error AS root_error, answers.root_signal AS root_signal,
       answers.root_seconds AS root_seconds, answers.root_message AS root_message,
       answers.root_library AS root_library, answers.root_library_at AS root_library_at,
       answers.root_detail AS root_detail
FROM _aioaudit_answers AS answers
LEFT JOIN _aioaudit_housekeeping AS housekeeping
  ON housekeeping.run = answers.run AND housekeeping.task = answers.task;


-- One row a link: from each cancelled task (position 1) back to its root cause (the highest position).
CREATE OR REPLACE TABLE aioaudit_chain AS
WITH
    trails AS (
        SELECT answers.run AS run, answers.task AS of_task, answers.root_seq AS root_seq,
               arrayJoin(walk.path) AS seq
        FROM _aioaudit_answers AS answers
        JOIN _aioaudit_walk AS walk ON walk.run = answers.run AND walk.seq = answers.cancel
    ),
    steps AS (
        SELECT trails.run AS run, trails.of_task AS of_task, requests.seq AS seq,
               requests.cause AS cause, requests.ts AS ts, requests.evidence AS evidence,
               requests.origin IS NOT NULL AS told, trails.seq = trails.root_seq AS is_last,
               -- Whether the request's own link is told: not where an origin tells the step better.
               coalesce(max(CASE WHEN requests.origin IS NULL THEN 0 ELSE 1 END) OVER (
                   PARTITION BY trails.run, trails.of_task ORDER BY requests.seq DESC
                   ROWS BETWEEN 1 PRECEDING AND 1 PRECEDING
               ), 0) = 0 AS shown
        FROM trails
        JOIN aioaudit_requests AS requests ON requests.run = trails.run AND requests.seq = trails.seq
    ),
    links AS (
        SELECT steps.run AS run, steps.of_task AS of_task, links.place AS place,
               links.what AS what, links.task AS task, links.name AS name, links.reason AS reason,
               links.source AS source, links."at" AS "at", links.by_name AS by_name,
               links.error AS error, links.signal AS signal, links.seconds AS seconds,
               links.message AS message, links.library AS library, links.library_at AS library_at,
               CASE WHEN links.place = 1 AND steps.is_last AND NOT steps.told
                         AND steps.cause IS NOT NULL
                        THEN coalesce(links.detail || '; ', '') || 'the line with seq '
                             || toString(steps.cause) || ', which would say why, is missing'
                    ELSE links.detail END AS detail,
               CASE WHEN links.place < 3 THEN steps.evidence END AS evidence,
               steps.seq AS seq, steps.ts AS ts
        FROM steps
        JOIN _aioaudit_links AS links ON links.run = steps.run AND links.seq = steps.seq
        WHERE links.place = 2
           OR (links.place = 1 AND (steps.shown OR (steps.is_last AND NOT steps.told)))
           OR (links.place = 3 AND steps.is_last)
        UNION ALL
        -- The task itself, where no request of its own is told.
        SELECT run, task, 0, 'cancelled', task, name,
               CASE WHEN root_seq IS NULL THEN 'unknown' END, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
               NULL, NULL, CASE WHEN root_seq IS NULL THEN root_detail END, NULL, NULL, requested
        FROM _aioaudit_answers
        WHERE root_seq IS NULL OR NOT own
    )
SELECT run, of_task,
       row_number() OVER (
           PARTITION BY run, of_task
           ORDER BY CASE WHEN seq IS NULL THEN 0 ELSE 1 END, seq DESC, place
       ) AS position,
       what, task, name, reason, source, "at", by_name, error, signal, seconds, message, library,
       library_at, detail, evidence, seq, ts
FROM links;


-- What went wrong with cancellations: what `aioaudit check` groups.
CREATE OR REPLACE VIEW aioaudit_findings AS
SELECT {finding}
FROM aioaudit_events
WHERE event = 'finding' AND run IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY run, seq ORDER BY ts) = 1;


-- One row an incident: one cause, at one time, in one run, and all the tasks that it reached. Without
-- housekeeping. To count by root cause and time, group by cause and date_trunc('minute', ts).
CREATE OR REPLACE VIEW aioaudit_incidents AS
SELECT run, pid, incident, min(ts) AS ts, max(ts) AS last_ts,
       count(*) AS tasks,
       sum(CASE WHEN cancel_outcome = 'swallowed' OR kept THEN 1 ELSE 0 END) AS swallowed,
       sum(CASE WHEN cancel_outcome = 'absorbed' AND NOT kept THEN 1 ELSE 0 END) AS absorbed,
       sum(CASE WHEN cancel_outcome = 'replaced' THEN 1 ELSE 0 END) AS replaced,
       max(CASE WHEN inferred THEN 1 ELSE 0 END) = 1 AS inferred,
       min(task) AS first_task,
       known, cause, root_what, root_task, root_name, root_reason, root_source, root_at, root_by_name,
       root_error, root_signal, root_seconds, root_message, root_library, root_library_at, root_detail
FROM aioaudit_cancelled
WHERE housekeeping IS NULL
GROUP BY run, pid, incident, known, cause, root_what, root_task, root_name, root_reason, root_source,
         root_at, root_by_name, root_error, root_signal, root_seconds, root_message, root_library,
         root_library_at, root_detail;


-- One row a root cause: the list of `aioaudit why`. What differs among its tasks is that of the first.
CREATE OR REPLACE VIEW aioaudit_root_causes AS
WITH
    causes AS (
        SELECT *, regexp_extract(root_error, '^[^:]*', 0) AS root_class,
               row_number() OVER (
                   PARTITION BY root_what, root_reason, root_source, root_at, root_library_at,
                                root_signal, regexp_extract(root_error, '^[^:]*', 0)
                   ORDER BY ts, run, task
               ) AS number
        FROM aioaudit_cancelled
        WHERE housekeeping IS NULL
    )
SELECT count(*) AS tasks,
       count(DISTINCT run) AS runs,
       min(ts) AS first_ts,
       max(ts) AS last_ts,
       max(CASE WHEN number = 1 THEN cause END) AS cause,
       max(CASE WHEN number = 1 THEN run || ':' || toString(task) END) AS ask_for,
       min(CASE WHEN known THEN 1 ELSE 0 END) = 1 AS known,
       root_what AS what, root_reason AS reason, root_source AS source, root_at AS "at",
       root_library_at AS library_at, root_signal AS signal, root_class AS error
FROM causes
GROUP BY root_what, root_reason, root_source, root_at, root_library_at, root_signal, root_class;


-- How long each cancelled task took to end, from the request on, and in which handler.
CREATE OR REPLACE VIEW aioaudit_slow_cancels AS
SELECT cancelled.run AS run, cancelled.pid AS pid, cancelled.task AS task, cancelled.name AS name,
       cancelled.coro AS coro, cancelled.ts AS ts,
       date_diff('microsecond', cancelled.requested, cancelled.ended) / 1000000.0 AS seconds,
       cancelled.cancel_outcome AS cancel_outcome, cancelled.reason AS reason,
       cancelled.suspended_at AS suspended_at, cancelled.cause AS cause,
       slow.run IS NOT NULL AS found,
       slow.delivered_after AS delivered_after, slow.waited AS waited, slow.waits_at AS waits_at
FROM aioaudit_cancelled AS cancelled
LEFT JOIN (
    SELECT run, task, cancel, max(delivered_after) AS delivered_after, max(waited) AS waited,
           max(waits_at) AS waits_at
    FROM aioaudit_findings WHERE kind = 'slow' GROUP BY run, task, cancel
) AS slow
  ON slow.run = cancelled.run AND slow.task = cancelled.task AND slow.cancel = cancelled.cancel
WHERE cancelled.requested IS NOT NULL AND cancelled.ended IS NOT NULL;
