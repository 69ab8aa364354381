# cython: language_level=3, binding=False, embedsignature=False
"""The fast path, compiled: what most events of a busy stream show goes from their bytes straight into the window.

Optional. Most events name what is known in a conversation that is open, as Twilio usually tells it. For each family of
these, ``FastPath`` does in one go exactly what its reader (``readers``) and ``Window.fold`` do together,
without an envelope, an ``Event`` and its facts between; or it declines, has changed nothing, and the message goes the
ordinary way. It may decline whatever it likes, and must where it would do otherwise: ``tests/test_native.py`` holds
both ways against each other, bit by bit, also with bytes that nobody would send.

The bytes are read by ``scanner.pxi``. The fields of structs are read and written where they lie (``Field``), and those
of the window and of the pipeline in the dict that holds them: to look each of them up by its name took longer than all
else that is done here.
"""

from cpython.bytes cimport PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from typing import Any, get_args

from monitor.core.conversation import IN_FOCUS, KIND, STAMP_BYTES, Birth, Conversation, NamedRoom, encode, has_seen
from monitor.core.envelope import FAULTS, Envelope, Ignorable
from monitor.core.events import (
    AnyFact,
    CallFact,
    ConferenceFact,
    ExecutionFact,
    ParticipantFact,
    RecordingFact,
    RequestFact,
    StepFact,
    TaskFact,
)
from monitor.core.guests import Guests
from monitor.core.nailed import ROOM_MAX, Note, Sight, with_one
from monitor.core.parted import PARTS, Parted
from monitor.core.readers import (
    BY_ENVELOPE,
    FOUND_BY_STREAM,
    OFTEN_CHARACTERS_MAX,
    PARTICIPANT,
    TYPE_CODES,
    is_ignored,
    linked,
    often_linked,
    reader_of,
    shape_of,
    unread,
)
from monitor.core.twiml import recorded_conferences
from monitor.core.values import (
    AGE_BOUNDS_MS,
    AHEAD_MAX_MS,
    INSTANTS,
    MESSAGE_BYTES_MAX,
    Text,
)
from monitor.core.window import COLD_TAIL_BYTES, LOOK_EVERY, Account, is_news

import msgspec

cdef extern from "Python.h":
    """
    #include <structmember.h>
    """
    ctypedef struct PyMemberDef:
        int type
        Py_ssize_t offset
    ctypedef struct PyMemberDescrObject:
        PyMemberDef* d_member
    PyTypeObject PyMemberDescr_Type
    int T_OBJECT_EX
    PyTypeObject* Py_TYPE(PyObject*)
    Py_ssize_t Py_REFCNT(PyObject*)
    PyObject* PyDict_GetItemWithError(object, object) except? NULL
    object PyObject_GenericGetDict(object, void*)
    unsigned char* bytes_of "(unsigned char *) PyBytes_AS_STRING" (object)
    const unsigned char* PyUnicode_AsUTF8AndSize(object, Py_ssize_t*) except NULL
    object PyUnicode_DecodeUTF8(const unsigned char*, Py_ssize_t, const char*)
    int _PyBytes_Resize(PyObject**, Py_ssize_t) except -1

cdef extern from *:
    """
    static const unsigned char *
    find_bytes(const unsigned char *in, Py_ssize_t size, const unsigned char *what, Py_ssize_t of_what) {
        return (const unsigned char *) memmem(in, (size_t) size, what, (size_t) of_what);
    }
    """
    const unsigned char* find_bytes(const unsigned char*, Py_ssize_t, const unsigned char*, Py_ssize_t)
    const unsigned int BUILT_FROM_ "BUILT_FROM"

include "scanner.pxi"
include "values.pxi"

BUILT_FROM = BUILT_FROM_  # The CRC-32 of this file, and of what it includes, when it was compiled.

cdef enum:
    AGES = 5
    UNREAD_TYPES = 256  # So many of them are known by name, each of
    UNREAD_BYTES = 128  # at most as many bytes.

cdef dict _UNREAD_TYPES = {}  # What an entry of such a type is, or None: somebody reads it.

cdef int RECORDING_KIND = KIND[RecordingFact]
cdef int CALL_KIND = KIND[CallFact]
cdef int TASK_KIND = KIND[TaskFact]
cdef int PARTICIPANT_KIND = KIND[ParticipantFact]
cdef int CONFERENCE_KIND = KIND[ConferenceFact]
cdef int REQUEST_KIND = KIND[RequestFact]
cdef int STEP_KIND = KIND[StepFact]
cdef int EXECUTION_KIND = KIND[ExecutionFact]
cdef int FOCUSED = IN_FOCUS
cdef int STAMP = STAMP_BYTES
cdef int64_t AHEAD_MS = AHEAD_MAX_MS
cdef int64_t[5] AGE_BOUNDS = AGE_BOUNDS_MS
cdef Py_ssize_t BYTES_MAX = MESSAGE_BYTES_MAX, COLD_TAIL = COLD_TAIL_BYTES
cdef int64_t EVERY = LOOK_EVERY, ROOM_MOST = ROOM_MAX
cdef Py_ssize_t OFTEN_CHARACTERS = OFTEN_CHARACTERS_MAX
cdef object _decode_facts = msgspec.msgpack.Decoder(tuple[AnyFact, ...]).decode


def is_struct(kind):
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)

# --------------------------------------------------------------------------- the fold

cdef enum:
    _RECORDING = 1
    _CALL
    _CONFERENCE
    _PARTICIPANT
    _CALL_SUMMARY
    _TASK
    _STEP
    _TWIML
    _PARTICIPANT_SUMMARY
    _CONFERENCE_SUMMARY
    _EXECUTION
    _EXECUTION_ENDED
    _CALL_REQUEST
    _CONFERENCE_REQUEST
    _DIAL
    _REMOVAL
    _WORKER  # From here on no conversation is concerned.
    _ERROR
    _UNREAD
    _IGNORED


cdef struct Sighting:
    PyObject* call  # It is among the members.
    int phase
    int64_t at_ms


cdef class FastPath:
    """The fast path of one partition, into its window. It holds nothing but what it is at with the message at hand."""

    cdef object window, nailed, warm
    cdef bint met
    cdef dict accounts, of_window, of_nailed
    cdef list oldest, renewed
    cdef int64_t bucket_ms, part
    cdef Field replayed, messages, entries, ignored, duplicates, late  # Of the pipeline's counts.
    cdef Scan scan
    cdef bint odd  # Something is told in a way that is not read here.
    cdef Out facts  # The facts at hand, each as msgpack.
    cdef int count  # How many.
    cdef int kinds
    cdef object account
    cdef tuple members
    cdef int64_t occurred_ms
    cdef object room  # A conference that is shown,
    cdef Told* name  # and its name: it goes by one.
    cdef Told path_name
    cdef bint on  # Insights says that it was recorded.
    cdef int64_t first_ms, end_ms  # When it was seen under it, and when it ended; 0: it has not.
    cdef object recording  # A recording that is shown,
    cdef int64_t started_ms  # and when it began.
    cdef object call  # The call that was seen in it;
    cdef Sighting[2] sights  # as often as facts say so.
    cdef int sightings
    cdef int new  # The kinds of what was new.
    cdef bint duplicate

    def __cinit__(self, window):
        self.window, self.nailed, self.accounts = window, window.nailed, window.accounts
        self.oldest, self.warm, self.renewed = window.births.oldest, window._warm, window.renewed
        self.of_window, self.of_nailed = window.__dict__, window.nailed.__dict__
        self.bucket_ms, self.part = window.nailed.marks.bucket_ms, window.nailed.marks.part

    cdef int meet(self, object pipeline) except -1:
        counts = type(pipeline.counts)
        self.replayed, self.messages, self.entries = (
            field_of(counts, "replayed"), field_of(counts, "messages"), field_of(counts, "entries")
        )
        self.ignored, self.duplicates, self.late = (
            field_of(counts, "ignored"), field_of(counts, "duplicate"), field_of(counts, "late")
        )
        self.met = True  # It is not held: it holds this, and would not go with its last user.
        return 0

    def feed(self, pipeline, offset, timestamp_ms, value, headers):
        """As ``Pipeline.feed``; None where the message is to go the ordinary way.

        Nothing has happened then, but that what fell due with it may have been begun (``Pipeline.begin``).
        """
        if not self.met:
            self.meet(pipeline)
        cdef dict of = PyObject_GenericGetDict(pipeline, NULL)
        if headers or not PyBytes_CheckExact(value) or PyBytes_GET_SIZE(value) > BYTES_MAX:
            return None
        log_time_ms, gate, skip = of["log_time_ms"], of["gate"], of["skip"]
        if log_time_ms is None or (skip and offset in skip):
            return None
        cdef int64_t now_ms = log_time_ms, stamp_ms = timestamp_ms, at = offset
        if stamp_ms - now_ms > AHEAD_MS:
            return None
        if stamp_ms > now_ms:
            log_time_ms, now_ms = timestamp_ms, stamp_ms
        cdef bint telling = gate is not None and at >= <int64_t> gate
        cdef bint looking_back = at < <int64_t> of["_open_from"]
        # Where something is to be done before its entry is folded, a message goes the ordinary way.
        if self.of_window["cut"] is not None or at <= <int64_t> of["_covered"]:
            return None
        if looking_back:
            if self.of_window["open_conversations"]:
                return None
        elif of["_begun"] is not None:  # Then it has been declined already.
            return None
        elif telling and (of["_kept_back"] or of["_overtaken"] or of["ledger"].heard):
            return None
        cdef int place = scan_entry(&self.scan, bytes_of(value), PyBytes_GET_SIZE(value))
        if place < 0:
            return None
        conversation = unread = None
        self.new, self.duplicate = 0, False
        cdef int family = FAMILY[place]
        if family < _ERROR:
            if not self.read(family):
                return None
            if looking_back:
                if family == _WORKER or not self.look_back(place, offset, now_ms):
                    return None
        elif family == _ERROR:
            if not self.is_other_error():
                return None
        elif family == _UNREAD:
            unread = self.of_unread_type()
            if unread is None:
                return None
        cdef bint due = not looking_back and now_ms >= <int64_t> self.of_window["due_ms"]
        if due:
            _arrive(of, timestamp_ms, log_time_ms, at)
            pipeline.begin(offset, log_time_ms, telling=telling)
        if family < _WORKER and not looking_back:
            conversation = self.fold(place, offset, log_time_ms, now_ms)
            if conversation is None:
                return None
        elif family == _WORKER and now_ms >= <int64_t> self.of_nailed["due_ms"]:
            self.window._mark(offset, log_time_ms)
        if not due:
            _arrive(of, timestamp_ms, log_time_ms, at)
        if looking_back:
            _add_one(of["counts"], &self.replayed)
            return ()
        cdef bint aged = False
        cdef int64_t too_old_ms
        if conversation is not None:
            too_old_ms = now_ms - <int64_t> self.of_window["age_max_ms"]
            if not self.oldest or <int64_t> _get(self.oldest[-1], &ARRIVED_MS) < too_old_ms:  # Else none is.
                aged = <int64_t> _get(_get(conversation, &BIRTH), &ARRIVED_MS) < too_old_ms
        counts = of["counts"]
        if not telling:
            _add_one(counts, &self.replayed)
            if aged:
                return pipeline.rebuilt_too_old(offset, log_time_ms)
            return pipeline._take_failures() if due and of["_failures"] else ()
        _add_one(counts, &self.messages)
        _add_one(counts, &self.entries)
        if conversation is None:
            if family == _WORKER:
                self.tally(pipeline, of["tallies"], TYPE_NAMES[place], log_time_ms, now_ms)
            else:
                _add_one(counts, &self.ignored)
                if unread is not None and not unread.known:
                    counts.see_unknown(unread.type)
            self.renewed.clear()  # That is of the last event folded, and has been looked at.
        elif self.duplicate:
            _add_one(counts, &self.duplicates)
        else:
            if self.recording is not None and pipeline.is_late(self.recording, self.started_ms, log_time_ms):
                _add_one(counts, &self.late)
            else:
                self.tally(pipeline, of["tallies"], TYPE_NAMES[place], log_time_ms, now_ms)
            if self.new and self.new & <int> _get(conversation, &RELEVANT):
                if _get(conversation, &RECORDINGS_) or _get(conversation, &SUSPECTS):
                    return pipeline.tell_of(conversation, offset, log_time_ms, aged=aged)
        if due or aged or self.renewed or not _is_calm(of, at + 1, now_ms):
            return pipeline.tell_of(None, offset, log_time_ms, aged=aged)
        return ()

    cdef int tally(self, object pipeline, dict tallies, object kind, object log_time_ms, int64_t now_ms) except -1:
        """``Pipeline.tally``, of a type that has been counted before."""
        cdef int64_t age_ms = now_ms - self.occurred_ms
        cdef PyObject* found = PyDict_GetItemWithError(tallies, kind)
        cdef list tally
        cdef Py_ssize_t place = 0
        if found is NULL:
            pipeline.tally(kind, self.occurred_ms, log_time_ms)
            return 0
        tally = <list> found
        while place < AGES and AGE_BOUNDS[place] < age_ms:
            place += 1
        tally[place] = <int64_t> tally[place] + 1
        if age_ms > 0:
            tally[AGES + 1] = <int64_t> tally[AGES + 1] + age_ms
        if self.occurred_ms > <int64_t> tally[AGES + 2]:
            tally[AGES + 2] = self.occurred_ms
        return 0

    cdef bint read(self, int family) except -1:
        """Read one event; whether it is told as it usually is."""
        self.facts.size, self.facts.full, self.count, self.kinds, self.odd = 0, False, 0, 0, False
        self.room = self.call = self.recording = None
        self.sightings = 0
        self.name, self.first_ms, self.end_ms, self.on = NULL, 0, 0, False
        cdef bint shows
        if family == _CALL:
            shows = self.read_call()
        elif family == _CONFERENCE or family == _PARTICIPANT:
            shows = self.read_conference(family == _PARTICIPANT)
        elif family == _CALL_SUMMARY:
            shows = self.read_call_summary()
        elif family == _TASK:
            shows = self.read_task()
        elif family == _STEP:
            shows = self.read_step()
        elif family == _TWIML or family == _DIAL:
            shows = self.read_twiml(family == _DIAL)
        elif family == _PARTICIPANT_SUMMARY:
            shows = self.read_participant_summary()
        elif family == _CONFERENCE_SUMMARY:
            shows = self.read_conference_summary()
        elif family == _CALL_REQUEST:
            shows = self.read_call_request()
        elif family == _CONFERENCE_REQUEST or family == _REMOVAL:
            shows = self.read_conference_request(family == _REMOVAL)
        elif family == _WORKER:
            shows = self.read_worker()
        elif family == _RECORDING:
            shows = self.read_recording()
        else:
            shows = self.read_execution(family == _EXECUTION_ENDED)
        # A property is kept with a stamp behind it.
        return shows and not self.odd and not self.facts.full and _has_room(&self.facts, STAMP)

    # ----------------------------------------------------------------- what a field was told to be

    cdef inline Told* told(self, int at) noexcept:
        """What a field was told to be; where it is spelled with escapes, the message is declined."""
        cdef Told* told = &self.scan.told[at]
        if told.escaped:
            self.odd = True
        return told

    cdef inline bint is_text(self, int at) noexcept:
        cdef Told* told = self.told(at)
        return told.kind == TEXT and told.size > 0

    cdef inline object sid(self, const char* prefix, int at):
        """The SID that was told, or None."""
        cdef Told* told = self.told(at)
        return _sid(told.at, told.size, prefix) if told.kind == TEXT and not told.escaped else None

    cdef inline object account_in(self, int at):
        return self.sid(b"AC", at)

    cdef inline object call_in(self, int at):
        return self.sid(b"CA", at)

    cdef inline object conference_in(self, int at):
        return self.sid(b"CF", at)

    cdef inline object execution_in(self, int at):
        return self.sid(b"FN", at)

    cdef inline object recording_in(self, int at):
        return self.sid(b"RE", at)

    cdef inline object task_in(self, int at):
        return self.sid(b"WT", at)

    cdef inline int64_t instant(self, int at) except -1:
        """The instant that was told; 0: none."""
        cdef Told* told = self.told(at)
        if told.kind == WHOLE or told.kind == BROKEN:
            self.odd = True
        return 0 if told.escaped else _instant(told)

    cdef inline bint puts_text(self, int at) noexcept:
        """Write what was told as ``text_of`` reads it; whether that is a text."""
        cdef Told* told = self.told(at)
        if told.kind == WHOLE or told.kind == BROKEN:
            self.odd = True
        if told.kind != TEXT or told.size == 0:
            _put(&self.facts, 0xC0)
            return False
        _put_bytes(&self.facts, told.at, told.size)
        return True

    cdef object text(self, int at):
        """A text, escapes or not, as an object."""
        cdef Told* told = &self.scan.told[at]
        if told.escaped:
            return msgspec.json.decode(told.at[-1 : told.size + 1])
        return PyUnicode_DecodeUTF8(told.at, told.size, NULL)

    # ----------------------------------------------------------------- one function a family: what it shows

    cdef bint read_call(self) except -1:
        self.occurred_ms = self.instant(P_TIMESTAMP)
        return self.show_parameters()

    cdef bint read_twiml(self, bint dial) except -1:
        if dial and (
            self.told(P_DIAL_CALL).kind == NOTHING
            or self.told(P_RECORDING).kind != NOTHING
            or self.told(P_RECORDING_URL).kind != NOTHING
        ):
            return False
        if self.told(R_BODY).kind == TEXT and not self.odd:
            try:
                if recorded_conferences(self.text(R_BODY)):
                    return False
            except FAULTS:
                return False
        self.occurred_ms = self.instant(P_TIMESTAMP) or self.instant(D_TIMESTAMP)
        if not self.show_parameters():
            return False
        self.names(self.call_in(P_DIAL_CALL))
        self.names(self.conference_in(P_CONFERENCE))
        return True

    cdef inline int names(self, object sid) except -1:
        """Have one more member, if it is one."""
        if sid is not None and sid not in self.members:
            self.members = (*self.members, sid)
        return 0

    cdef bint read_worker(self) except -1:
        self.account = self.account_in(D_ACCOUNT) or self.account_in(L_ACCOUNT)
        self.occurred_ms = self.instant(L_TIMESTAMP_MS) or self.instant(D_TIMESTAMP)
        return self.account is not None and self.occurred_ms

    cdef bint show_parameters(self) except -1:
        """What the parameters of a callback say of its call."""
        self.account = self.account_in(P_ACCOUNT)
        call = self.call_in(P_CALL)
        if self.account is None or call is None or not self.occurred_ms or not self.is_text(P_DIRECTION):
            return False
        self.members = self.pair(call, self.call_in(P_PARENT_CALL))
        return self.show_call(call)

    cdef bint read_call_summary(self) except -1:
        self.account = self.account_in(D_ACCOUNT)
        call = self.call_in(D_CALL)
        self.occurred_ms = self.instant(D_TIMESTAMP) or self.instant(D_END_TIME) or self.instant(D_START_TIME)
        if self.account is None or call is None or not self.occurred_ms or not self.is_text(IN_DIRECTION):
            return False
        self.members = self.pair(call, self.call_in(D_PARENT_CALL))
        self.begin_fact(CALL_KIND, 0x95, 9)
        _put_sid(&self.facts, call)
        self.puts_text(IN_DIRECTION)
        _put(&self.facts, 0xC0)
        _put(&self.facts, 0xC0)
        return True

    cdef bint read_task(self) except -1:
        cdef Told* attributes = &self.scan.told[L_ATTRIBUTES]
        cdef tuple calls
        self.account = self.account_in(D_ACCOUNT)
        if self.account is None:
            self.account = self.account_in(L_ACCOUNT)
        task = self.task_in(L_TASK)
        self.occurred_ms = self.instant(L_TIMESTAMP_MS) or self.instant(D_TIMESTAMP)
        if self.account is None or task is None or not self.occurred_ms:
            return False
        if attributes.kind != TEXT and attributes.kind != NOTHING:
            return False
        if attributes.kind == NOTHING:
            conference, calls = None, ()
        else:
            told = self.text(L_ATTRIBUTES)
            conference, calls = (often_linked if len(<str> told) <= OFTEN_CHARACTERS else linked)(told)
        if len(calls) > 15:
            return False
        self.members = (task, *calls) if conference is None else (task, conference, *calls)
        self.begin_fact(TASK_KIND, 0x96, 6)
        _put_sid(&self.facts, task)
        _put_sid(&self.facts, conference)
        _put(&self.facts, 0x90 | len(calls))
        for call in calls:
            _put_sid(&self.facts, call)
        self.put_said(L_QUEUE, L_QUEUE_NAME)
        self.put_said(L_WORKER, L_WORKER_NAME)
        if conference is not None:
            self.room = conference  # It shows a Flex conference: worth its position.
        return True

    cdef int put_said(self, int sid, int name) except -1:
        """What is told of a queue or a worker, as ``said`` has it."""
        _put(&self.facts, 0x90 | (self.is_text(sid) + self.is_text(name)))
        if self.is_text(sid) or self.told(sid).kind == WHOLE or self.told(sid).kind == BROKEN:
            self.puts_text(sid)
        if self.is_text(name) or self.told(name).kind == WHOLE or self.told(name).kind == BROKEN:
            self.puts_text(name)
        return 0

    cdef bint read_conference(self, bint participant) except -1:
        self.account = self.account_in(P_ACCOUNT)
        conference = self.conference_in(P_CONFERENCE)
        self.occurred_ms = self.instant(P_TIMESTAMP)
        if self.account is None or conference is None or not self.occurred_ms or not self.is_text(P_NAME):
            return False
        cdef int phase = _phase(self.told(P_HAPPENED))
        if phase < 0:
            return False
        call, ending = self.call_in(P_CALL), self.call_in(P_CALL_ENDING)
        if call is None and (participant or self.told(P_CALL).kind != NOTHING):
            return False
        cdef Told* name = self.told(P_NAME)
        self.room, self.name, self.first_ms = conference, name, self.occurred_ms
        self.call = call
        if call is not None:
            self.members = (conference, call)
            self.show_participant(conference, call, phase if phase == JOIN or phase == LEAVE else INSIDE, name, 0)
        else:
            self.members = (conference,)
            if phase == END:
                self.end_ms = self.occurred_ms
            self.show_conference(conference, name, phase if phase == START or phase == END else SEEN, 0, NOTHING)
        if ending is not None and ending != call:
            if call is not None:
                return False
            self.call = ending
            self.members = (*self.members, ending)
            self.show_participant(conference, ending, LEAVE, name, 0)
        return True

    cdef bint read_participant_summary(self) except -1:
        self.account = self.account_in(D_ACCOUNT)
        conference, call = self.conference_in(D_CONFERENCE), self.call_in(D_CALL)
        cdef int64_t joined_ms = self.instant(D_JOIN_TIME), left_ms = self.instant(D_LEAVE_TIME)
        cdef int on = self.told(IN_RECORDING).kind
        self.occurred_ms = self.instant(D_TIMESTAMP) or left_ms or joined_ms
        if self.account is None or conference is None or call is None or not self.occurred_ms:
            return False
        if on != NOTHING and on != FALSE and on != TRUE:
            return False
        self.on = on == TRUE
        self.members, self.room, self.call = (conference, call), conference, call
        self.show_participant(conference, call, JOIN if joined_ms else INSIDE, NULL, joined_ms)
        if left_ms:
            self.show_participant(conference, call, LEAVE, NULL, left_ms)
        return self.show_conference(conference, NULL, SEEN, joined_ms, on)

    cdef bint read_conference_summary(self) except -1:
        self.account = self.account_in(D_ACCOUNT)
        conference = self.conference_in(D_CONFERENCE)
        cdef int64_t start_ms = self.instant(D_START_TIME) or self.instant(D_CREATE_TIME)
        cdef int64_t end_ms = self.instant(D_END_TIME)
        cdef int on = self.told(D_RECORDING).kind
        self.occurred_ms = self.instant(D_TIMESTAMP) or end_ms or start_ms
        if self.account is None or conference is None or not self.occurred_ms or not start_ms:
            return False
        if not self.is_text(D_NAME_OF) or (on != NOTHING and on != FALSE and on != TRUE):
            return False
        self.on = on == TRUE
        cdef Told* name = self.told(D_NAME_OF)
        self.members = (conference,)
        self.room, self.name, self.first_ms, self.end_ms = conference, name, start_ms, end_ms
        self.show_conference(conference, name, START, start_ms, on)
        if end_ms:
            self.show_conference(conference, name, END, end_ms, NOTHING)
        return True

    cdef bint read_step(self) except -1:
        self.account = self.account_in(D_ACCOUNT)
        execution = self.execution_in(D_EXECUTION)
        self.occurred_ms = self.instant(D_TIMESTAMP) or self.instant(D_CREATED)
        if self.account is None or execution is None or not self.occurred_ms:
            return False
        self.members = (execution,)
        self.begin_fact(STEP_KIND, 0x95, 8)
        _put_sid(&self.facts, execution)
        self.puts_text(D_LEAVES)
        self.puts_text(D_ENTERS)
        self.puts_text(D_NAME)
        return True

    cdef bint read_execution(self, bint ended) except -1:
        self.account = self.account_in(D_ACCOUNT)
        execution, call = self.execution_in(D_EXECUTION), self.call_in(D_STARTED_BY)
        cdef int64_t revision = _number(self.told(D_REVISION))
        cdef int own_date = D_UPDATED if ended and self.told(D_UPDATED).kind != NOTHING else D_CREATED
        self.occurred_ms = self.instant(D_TIMESTAMP)
        if not self.occurred_ms:
            if own_date == D_UPDATED and not self.is_text(D_UPDATED):
                return False
            self.occurred_ms = self.instant(own_date)
        if call is None:
            call = self.call_in(D_CALL)
        if self.account is None or execution is None or not self.occurred_ms or not self.is_text(D_FLOW):
            return False
        if revision < 0:
            return False
        self.members = self.pair(execution, call)
        self.begin_fact(EXECUTION_KIND, 0x96, 7)
        _put_sid(&self.facts, execution)
        _put_sid(&self.facts, call)
        self.puts_text(D_FLOW)
        _put_whole(&self.facts, revision)
        _put(&self.facts, 0xC3 if ended else 0xC2)
        return True

    cdef bint read_call_request(self) except -1:
        if not self.is_text(P_FROM) or self.scan.told[P_TWIML].kind != NOTHING:
            return False
        call = self.call_in(P_CALL) or self.call_in(D_SID)
        self.account = self.account_of_request()
        self.occurred_ms = self.instant(D_TIMESTAMP)
        if self.account is None or call is None or not self.occurred_ms:
            return False
        self.members = (call,)
        return self.show_call(call)

    cdef bint read_conference_request(self, bint removal) except -1:
        cdef Told* url = self.told(Q_URL)
        cdef Told* record = self.told(P_RECORD)
        cdef Told* code = self.told(R_CODE)
        cdef const unsigned char* at
        cdef const unsigned char* end = url.at + url.size
        cdef Py_ssize_t place
        cdef bint records = False, lacks
        if url.kind != TEXT or self.odd or (code.kind != NOTHING and not 0 <= _number(code) < 400):
            return False
        lacks = not (self.scan.told[P_FROM].kind or record.kind or self.scan.told[P_HOLD].kind
                     or self.scan.told[P_MUTED].kind or self.scan.told[P_STATUS].kind)
        if lacks and not removal:
            return False
        if record.kind == TRUE:
            records = True
        elif record.kind == TEXT and (_is(record, b"true", 4) or _is(record, b"record-from-start", 17)):
            records = True
        elif record.kind == TEXT and not (_is(record, b"false", 5) or _is(record, b"do-not-record", 13)):
            return False
        elif record.kind == WHOLE or record.kind == BROKEN:
            return False
        for place in range(url.size):
            if url.at[place] in (0x23, 0x25, 0x3F) or url.at[place] >= 0x80:  # What stands behind ? or # is no path.
                return False
        self.path_name.size = 0
        conference = self.conference_in(P_CONFERENCE) or self.conference_in(D_SID)
        at = find_bytes(url.at, url.size, <const unsigned char*> b"/Conferences/", 13)
        if at is not NULL:
            at += 13
            self.path_name.at = at
            while at < end and at[0] != 0x2F:
                at += 1
            self.path_name.size = at - self.path_name.at
            if self.path_name.size > 5 and memcmp(at - 5, b".json", 5) == 0:
                self.path_name.size -= 5
            named = _sid(self.path_name.at, self.path_name.size, b"CF")
            if lacks and (named is None or at - self.path_name.at != SID or not _names_participant(at, end)):
                return False
            if named is not None:
                conference = conference or named
                self.path_name.size = 0
            elif not _is_plain(self.path_name.at, self.path_name.size):
                return False
        elif lacks:
            return False
        call = self.call_in(P_CALL)
        if call is None:
            if find_bytes(url.at, url.size, <const unsigned char*> b"/Calls/", 7) is not NULL:
                return False
            at = find_bytes(url.at, url.size, <const unsigned char*> b"/Participants/", 14)
            if at is NULL:
                call = self.call_in(D_SID)
            else:
                call = _sid_in_path(at + 14, end, b"CA")
                if call is None:
                    return False
        self.account = self.account_of_request()
        self.occurred_ms = self.instant(D_TIMESTAMP)
        if self.account is None or conference is None or not self.occurred_ms:
            return False
        cdef Told* name = &self.path_name if self.path_name.size else NULL
        self.members = self.pair(conference, call)
        self.room, self.name, self.first_ms = conference, name, self.occurred_ms
        self.show_conference(conference, name, SEEN, 0, NOTHING)
        if records:
            self.begin_fact(REQUEST_KIND, 0x94, 5)
            _put_sid(&self.facts, conference)
            _put_name(&self.facts, name)
            _put_sid(&self.facts, call)
        return True

    cdef bint read_recording(self) except -1:
        cdef Told* status = self.told(P_REC_STATUS)
        cdef Told* duration = self.told(P_DURATION)
        cdef int64_t seconds = -1
        cdef Py_ssize_t place
        recording, call, conference = self.recording_in(P_RECORDING), self.call_in(P_CALL), self.conference_in(P_CONFERENCE)
        self.account = self.account_in(P_ACCOUNT)
        self.started_ms = self.instant(P_STARTED)
        self.occurred_ms = self.instant(P_TIMESTAMP) or self.instant(D_TIMESTAMP) or self.instant(E_TIME)
        if self.account is None or recording is None or not self.started_ms or not self.occurred_ms:
            return False
        if (call is None and conference is None) or not self.is_text(P_SOURCE) or not self.is_text(P_REC_STATUS):
            return False
        for place in range(status.size):
            if not (0x61 <= status.at[place] <= 0x7A or status.at[place] == 0x2D):
                return False
        if duration.kind == NOTHING:
            duration = self.told(D_DURATION)
        if duration.kind != NOTHING and not _is(duration, b"-1", 2):  # Twilio's word for one that is not known.
            seconds = _number(duration)
            if seconds < 0:
                return False
        self.recording = recording
        self.members = (recording, *self.pair(call, conference)) if call is not None else (recording, conference)
        self.begin_fact(RECORDING_KIND, 0x9B, 1)
        _put_sid(&self.facts, recording)
        _put_sid(&self.facts, call)
        _put_sid(&self.facts, conference)
        self.puts_text(P_SOURCE)
        self.puts_text(P_REC_STATUS)
        _put_instant(&self.facts, self.started_ms)
        if 0 <= seconds < 10_000_000:
            _put_whole(&self.facts, seconds * 1000)
        else:
            _put(&self.facts, 0xC0)
        self.puts_text(Q_URL)
        _put_sid(&self.facts, FOUND_BY_STREAM)
        _put(&self.facts, 0xC2)
        return True

    cdef object account_of_request(self):
        """The account of a request to Twilio's API: where no field says it, the address does."""
        cdef Told* url = self.told(Q_URL)
        cdef const unsigned char* at
        account = self.account_in(P_ACCOUNT) or self.account_in(D_PASCAL_ACCOUNT) or self.account_in(D_ACCOUNT)
        if account is None and url.kind == TEXT:
            at = find_bytes(url.at, url.size, <const unsigned char*> b"/Accounts/", 10)
            if at is not NULL:
                account = _sid_in_path(at + 10, url.at + url.size, b"AC")
        return account

    cdef object of_unread_type(self):
        """What an entry is that nobody reads; None: somebody might."""
        cdef Told* kind = self.told(TYPE)
        cdef PyObject* found
        if kind.escaped or not 0 < kind.size <= UNREAD_BYTES:
            return None
        name = PyUnicode_DecodeUTF8(kind.at, kind.size, NULL)
        found = PyDict_GetItemWithError(_UNREAD_TYPES, name)
        if found is not NULL:
            return <object> found
        if len(_UNREAD_TYPES) >= UNREAD_TYPES:
            _UNREAD_TYPES.clear()  # Whoever makes up names must not fill the memory.
        known = _UNREAD_TYPES[name] = None if reader_of(name) is not None else unread(name)
        return known

    cdef bint is_other_error(self) noexcept:
        """Whether an error is none of our own sink's: their codes begin with 9."""
        cdef Told* code = self.told(D_ERROR)
        return code.kind == TEXT and not code.escaped and code.size > 0 and code.at[0] != 0x39

    cdef inline tuple pair(self, object one, object other):
        return (one,) if other is None or other == one else (one, other)

    cdef inline int begin_fact(self, int kind, int array, int tag) except -1:
        _put(&self.facts, array)
        _put(&self.facts, tag)
        self.count += 1
        self.kinds |= kind
        return 0

    cdef bint show_call(self, object call) except -1:
        """What the parameters say of a call."""
        self.begin_fact(CALL_KIND, 0x95, 9)
        _put_sid(&self.facts, call)
        self.puts_text(P_DIRECTION)
        self.puts_text(P_FROM)
        self.puts_text(P_TO)
        return True

    cdef bint show_participant(self, object conference, object call, int phase, Told* name, int64_t at_ms) except -1:
        self.sights[self.sightings] = Sighting(<PyObject*> call, phase, at_ms)
        self.sightings += 1
        self.begin_fact(PARTICIPANT_KIND, 0x96, 2)
        _put_sid(&self.facts, conference)
        _put_sid(&self.facts, call)
        _put_phase(&self.facts, phase)
        _put_name(&self.facts, name)
        _put_instant(&self.facts, at_ms)
        return True

    cdef bint show_conference(self, object conference, Told* name, int phase, int64_t at_ms, int on) except -1:
        self.begin_fact(CONFERENCE_KIND, 0x96, 3)
        _put_sid(&self.facts, conference)
        _put_name(&self.facts, name)
        _put_phase(&self.facts, phase)
        _put_instant(&self.facts, at_ms)
        _put(&self.facts, 0xC2 if on == FALSE else 0xC3 if on == TRUE else 0xC0)
        return True

    # ----------------------------------------------------------------- into the window

    cdef object fold(self, int place, object offset, object arrived_ms, int64_t now_ms):
        """``Window.fold`` of the event at hand: the conversation it went to. None: declined.

        Offset and log time are those of the message.
        """
        cdef Told* event_id = self.told(E_ID)
        cdef PyObject* found = PyDict_GetItemWithError(self.accounts, self.account)
        cdef bint complete = True, joined = True
        cdef bint timeless = self.kinds & (CALL_KIND | TASK_KIND)
        cdef bint timed = not timeless or self.room is not None
        cdef Out kept
        cdef unsigned char digest[DIGEST]
        cdef PyObject* ids
        cdef int64_t room_left, most = self.of_window["entries_max"]
        if found is NULL or self.odd or event_id.kind != TEXT or event_id.size == 0:
            return None
        account = <object> found
        cdef list index = _get(_get(account, &INDEX), &PARTS_OF)
        if _is_empty(index) or <int64_t> self.of_window["cold_after_ms"] <= 0:
            return None  # An account without conversations may be forgotten with a new bucket.
        conversation = told = None
        room_left = most
        _digest(event_id.at, event_id.size, digest)
        for member in self.members:
            found = _found(index, member)
            if found is NULL:
                complete = False
                continue
            if <object> found is conversation:
                continue
            if conversation is None:
                conversation = <object> found
            else:
                joined = False
            ids = _place(<object> found, &IDS)[0]
            if told is None and _holds(bytes_of(<object> ids), PyBytes_GET_SIZE(<object> ids), digest):
                told = <object> found
            room_left -= max(<int64_t> _get(<object> found, &KEPT), <int64_t> _get(<object> found, &PROPERTIES_KEPT))
        guests = _get(account, &GUESTS)
        if guests is not None:
            watched = guests.notes.watched.parts
            for member in self.members:
                if _found(watched, member) is not NULL:
                    return None
        if self.call is not None and conversation is not None:
            if not joined or <int64_t> _get(conversation, &CONFERENCES_) > complete:
                # A call may have been seen in a second conference (``Nailed.see``).
                if self.moves(index):
                    return None
        cdef bint marks = now_ms >= <int64_t> self.of_nailed["due_ms"]
        if told is not None:
            if marks:
                self.window._mark(offset, arrived_ms)
            return self.tell_again(told, index, offset, arrived_ms, now_ms)
        if room_left <= 0:
            return None
        if timed:
            self.put_kept(&kept, place, offset)
            if kept.full:
                return None

        # From here on it is folded.
        if marks:
            self.window._mark(offset, arrived_ms)
        self.announce(index)
        if conversation is None:
            conversation = self.window._begin(account.sid, offset, arrived_ms)
        elif not joined:
            conversation = self.window._gather(account, self.members)
        if not complete:
            self.add_members(account, conversation)
        _append(conversation, &IDS, digest, DIGEST)
        _set(conversation, &LAST_MS, arrived_ms)
        if <int64_t> offset % EVERY == 0:
            self.look_for_cold(arrived_ms, now_ms)
        if timeless and self.keeps_already(conversation):
            return conversation
        focus = _get(conversation, &FOCUS)
        self.new = self.kinds
        if focus is not None and self.kinds & FOCUSED:
            self.new = 0
            for fact in self.as_read():
                if is_news(account, focus, fact, self.occurred_ms):
                    self.new |= <int> KIND[type(fact)]
        if not timed:
            return conversation
        if self.recording is not None and not has_seen(_get(conversation, &RECORDINGS_), self.recording):
            self.window._see_recording(conversation, self.recording, arrived_ms, offset, 0)
        _append(conversation, &EVIDENCE, kept.bytes, kept.size)
        _add_one(conversation, &KEPT)
        if _get(conversation, &COLD) is True and PyBytes_GET_SIZE(_get(conversation, &EVIDENCE)) > COLD_TAIL:
            self.window._warm_up(conversation)
        if (
            (self.on and not has_seen(_get(conversation, &SUSPECTS), self.room))
            or (self.sightings and _get(conversation, &CLAIMS))  # A call seen in a conference claims none any more.
            or (self.name is not NULL and not self.sees_room(account, index, conversation))
        ):
            for fact in self.as_read():
                self.window._bind(account, conversation, fact, self.occurred_ms, arrived_ms, offset, 0)
                conversation = account.index[self.members[0]]  # A binding may have poured it into another one.
        return conversation

    cdef int put_kept(self, Out* kept, int place, object offset) except -1:
        """Write the event as it is kept: an array of five, of which the last are its facts."""
        cdef Told* event_id = self.told(E_ID)
        kept.size, kept.full = 0, False
        _put(kept, 0x95)
        _put_whole(kept, self.occurred_ms)
        _put_whole(kept, offset)
        _put_id(kept, event_id)
        _put_raw(kept, bytes_of(TYPE_BYTES[place]), PyBytes_GET_SIZE(TYPE_BYTES[place]))
        _put(kept, 0x90 | self.count)
        _put_raw(kept, self.facts.bytes, self.facts.size)
        return 0

    cdef int announce(self, list index) except -1:
        """As the window begins with each event."""
        saver = self.of_window["_saver"]
        cdef PyObject* found
        if saver is not None:
            for member in self.members:
                found = _found(index, member)
                if found is not NULL:
                    saver.before(<object> found)
        if self.renewed:
            self.renewed.clear()
        return 0

    cdef int add_members(self, object account, object conversation) except -1:
        """``Window._add_members``."""
        index = _get(account, &INDEX)
        for member in self.members:
            if _found(_get(index, &PARTS_OF), member) is NULL:
                index[member] = conversation
                _set(conversation, &MEMBERS, <tuple> _get(conversation, &MEMBERS) + (member,))
                if (<str> member).startswith("CF"):
                    _add_one(conversation, &CONFERENCES_)
        return 0

    cdef object tell_again(self, object conversation, list index, object offset, object arrived_ms, int64_t now_ms):
        """It is a duplicate, of what this conversation holds."""
        cdef object event_id = self.text(E_ID)
        self.announce(index)
        self.duplicate = True
        _set(conversation, &LAST_MS, arrived_ms)
        conversation.arrive_again(event_id, offset, now_ms // self.bucket_ms, self.of_window["entries_max"])
        if self.kinds & (CALL_KIND | TASK_KIND):
            conversation.tell_again(self.encoded(), self.of_nailed["stamp"])
        return conversation

    cdef bint moves(self, list index) except -1:
        """``guests.moves``, of the call that was seen."""
        cdef PyObject* here = _found(index, self.call)
        cdef int64_t conferences
        if here is NULL:
            return False
        conferences = _get(<object> here, &CONFERENCES_)
        return conferences > 1 or (conferences == 1 and _found(index, self.room) is not here)

    cdef int look_for_cold(self, object arrived_ms, int64_t now_ms) except -1:
        """``Window.look_for_cold``, where the next one in turn is not cold."""
        cdef int64_t cold_ms = now_ms - <int64_t> self.of_window["cold_after_ms"]
        if self.warm:
            first = self.warm[0]
            if _get(first, &OPEN) is True and <int64_t> _get(first, &LAST_MS) > cold_ms:
                self.warm.rotate(-1)
            else:
                self.window.look_for_cold(arrived_ms)
        return 0

    cdef bint keeps_already(self, object conversation) except -1:
        """Keep the one fact at hand among the properties; whether it was there."""
        cdef bytes stamp = self.of_nailed["stamp"]
        cdef const unsigned char* at
        cdef bytes properties
        cdef Py_ssize_t place
        if _get(conversation, &PACKED):
            if conversation.tell_again(self.encoded(), stamp):
                return True
        else:
            properties = _get(conversation, &PROPERTIES_)
            at = find_bytes(bytes_of(properties), PyBytes_GET_SIZE(properties),
                            self.facts.bytes, self.facts.size)
            if at is not NULL:
                place = at - bytes_of(properties) + self.facts.size
                if memcmp(bytes_of(properties) + place, bytes_of(stamp), STAMP):
                    _set(conversation, &PROPERTIES_, properties[:place] + stamp + properties[place + STAMP :])
                return True
            properties = None
        _put_raw(&self.facts, bytes_of(stamp), STAMP)
        _append(conversation, &PROPERTIES_, self.facts.bytes, self.facts.size)
        self.facts.size -= STAMP
        _add_one(conversation, &PROPERTIES_KEPT)
        return False

    cdef bytes encoded(self):
        """The facts at hand as they are kept."""
        return PyBytes_FromStringAndSize(<const char*> self.facts.bytes, self.facts.size)

    cdef object as_read(self):
        """The facts at hand as the structs that they are."""
        return _decode_facts(bytes([0x90 | self.count]) + self.encoded())

    cdef bint sees_room(self, object account, list index, object conversation) except -1:
        """Bind what goes by a name, where nothing else has gone by it; whether that is done."""
        cdef Py_ssize_t size
        cdef const unsigned char* text
        for room in <tuple> _get(conversation, &ROOMS):
            text = PyUnicode_AsUTF8AndSize(_get(room, &ROOM_NAME), &size)
            if size == self.name.size and memcmp(text, self.name.at, size) == 0:
                if _get(room, &ROOM_CONFERENCE) == self.room:
                    if self.end_ms == 0 and self.first_ms >= <int64_t> _get(room, &ROOM_FIRST_MS):
                        return True  # From most sights of a room nothing follows.
                    books = _get(account, &BOOKS)
                    if _found(_get(books, &PARTS_OF), _get(room, &ROOM_NAME)) is not <PyObject*> room:
                        return False
                    self.see(room)
                    return True
        books = _get(account, &BOOKS)
        name = PyUnicode_DecodeUTF8(self.name.at, self.name.size, NULL)
        if _found(_get(books, &PARTS_OF), name) is not NULL:
            return False
        # One text for a room and for the members that it goes by.
        cdef PyObject* task = _found(index, name)
        if task is not NULL:
            name = _own(<object> task, name)
        room = NamedRoom(name, _own(conversation, self.room), self.first_ms, None)
        books[name] = room
        _set(conversation, &ROOMS, <tuple> _get(conversation, &ROOMS) + (room,))
        self.see(room)
        return True

    cdef int see(self, object room) except -1:
        """``NamedRoom.see``, of the sights at hand."""
        if self.first_ms < <int64_t> _get(room, &ROOM_FIRST_MS):
            _set(room, &ROOM_FIRST_MS, self.first_ms)
        if self.end_ms:
            if self.end_ms < <int64_t> _get(room, &ROOM_FIRST_MS):
                _set(room, &ROOM_FIRST_MS, self.end_ms)
            known = _get(room, &ROOM_END_MS)
            if known is None or self.end_ms > <int64_t> known:
                _set(room, &ROOM_END_MS, self.end_ms)
        return 0


    # ----------------------------------------------------------------- before the window

    cdef bint look_back(self, int place, object offset, int64_t now_ms) except -1:
        """``Window.look_back`` at the event at hand, as long as no conversation is open that it could concern.

        False: declined. What is rare (a bound is reached) is left to the notes themselves.
        """
        cdef Told* event_id = self.told(E_ID)
        cdef PyObject* found = PyDict_GetItemWithError(self.accounts, self.account)
        cdef Out kept
        cdef unsigned char digest_[DIGEST]
        cdef int64_t number = now_ms // self.bucket_ms, bound = self.of_nailed["entries_max"]
        if found is NULL or self.odd or event_id.kind != TEXT or event_id.size == 0:
            return False
        guests = _get(<object> found, &GUESTS)
        if type(guests) is not Guests:
            return False
        kept.size, kept.full = 0, False
        if self.kinds & (STEP_KIND | EXECUTION_KIND):
            self.put_kept(&kept, place, offset)
            if kept.full:
                return False

        # From here on it is noted.
        if now_ms >= <int64_t> self.of_nailed["due_ms"]:
            self.nailed.begin_bucket(offset, now_ms)
        notes, bucket = guests.notes, number
        cdef list calls = notes.calls.parts
        cdef int at
        room = execution = None
        if self.kinds & (PARTICIPANT_KIND | CONFERENCE_KIND):
            for at in range(self.sightings):
                self.see_call(notes, <object> self.sights[at].call, bucket)
            room = notes.rooms.get(self.room)
            if room is None:
                room = notes.watch_room(self.room, offset, bucket)
        elif self.kinds & (STEP_KIND | EXECUTION_KIND):
            told = PyBytes_FromStringAndSize(<const char*> kept.bytes, kept.size)
            execution = notes.executions.get(self.members[0])
            if execution is None:
                execution = notes.watch_execution(self.members[0], bucket)
        _digest(event_id.at, event_id.size, digest_)
        digest = PyBytes_FromStringAndSize(<const char*> digest_, DIGEST)
        for member in self.members:
            if not (<str> member).startswith("CA"):
                continue
            found = _found(calls, member)
            record = <object> found if found is not NULL else notes.call(member)
            if self.kinds & TASK_KIND or (self.kinds & CALL_KIND and member is self.members[0]):
                self.tell(notes, record, member, number - number % self.part, bound)
            elif self.sightings:
                self.note_sights(notes, record, member, room, offset, bucket, bound)
            elif execution is not None:
                notes.note(member, (), (Note(bucket, offset, told, self.members[0]),))
                execution.touched, execution.calls = bucket, with_one(execution.calls, member)
            ids = record.ids
            if ids is None:
                ids = record.ids = {}
            (<dict> ids)[digest] = bucket
        if execution is not None:
            notes.step(execution, Note(bucket, offset, told, None))
        elif room is not None:
            self.tell_room(notes, room, bucket)
        self.of_nailed["noted"] = bucket
        return True

    cdef int see_call(self, object notes, object call, object bucket) except -1:
        """Take in that a call is in the conference at hand."""
        cdef PyObject* found = _found(notes.calls.parts, call)
        cdef int64_t most = <int64_t> self.of_nailed["conferences_max"] + 1
        record = <object> found if found is not NULL else notes.call(call)
        if not _tell_latest(record.seen, self.room, bucket, most):
            record.see(self.room, bucket, most)
        return 0

    cdef int tell(self, object notes, object record, object call, object bucket, int64_t bound) except -1:
        """Note the one fact at hand, which has no time, of a call."""
        encoded = self.encoded()
        properties = record.properties
        cdef PyObject* found
        if properties is None:
            notes.tell(call, encoded, bucket)
            return 0
        found = PyDict_GetItemWithError(properties, encoded)
        if found is not NULL:
            before = <object> found
            del (<dict> properties)[encoded]  # The last one told stands last.
            (<dict> properties)[encoded] = max(before, bucket)
        elif len(<dict> properties) < bound:
            (<dict> properties)[encoded] = bucket
        else:
            notes.tell(call, encoded, bucket)
        return 0

    cdef int tell_room(self, object notes, object room, object bucket) except -1:
        """Note what the event at hand says of its conference: a name, an end."""
        if self.name is NULL and not self.end_ms:
            return 0
        name = None if self.name is NULL else PyUnicode_DecodeUTF8(self.name.at, self.name.size, NULL)
        end_ms = self.end_ms or None
        room.touched = bucket
        if (name is not None and not _tell_latest(room.names, name, bucket, ROOM_MOST)) or (
            end_ms is not None and not _tell_latest(room.ends, end_ms, bucket, ROOM_MOST)
        ):
            notes.tell_room(room, name, end_ms, bucket)
        return 0

    cdef int note_sights(
        self, object notes, object record, object call, object room, object offset, object bucket, int64_t bound
    ) except -1:
        """Note where a call was seen, if it was."""
        cdef int at
        cdef list sights = []
        for at in range(self.sightings):
            if <object> self.sights[at].call == call:
                at_ms = self.sights[at].at_ms or self.occurred_ms
                sights.append(Sight(bucket, offset, at_ms, PHASES[self.sights[at].phase], self.room))
        if not sights:
            return 0
        cdef tuple before = record.sights
        if len(before) + len(sights) <= bound:
            record.sights = before + tuple(sights)
        else:
            notes.note(call, sights, ())
        room.touched, room.calls = bucket, with_one(room.calls, call)
        return 0


cdef int _arrive(dict of, object timestamp_ms, object log_time_ms, int64_t offset) except -1:
    of["stamped_before_ms"], of["log_time_ms"], of["next_offset"] = timestamp_ms, log_time_ms, offset + 1
    return 0


cdef bint _is_calm(dict of, int64_t next_offset, int64_t now_ms) except -1:
    """Whether nothing is to be told after a message that changed no conclusion."""
    return not (
        of["_all_dirty"]
        or of["_dirty_accounts"]
        or of["_changed_accounts"]
        or (of["_unsettled"] and next_offset >= <int64_t> of["_end"])
        or now_ms >= <int64_t> of["ledger"].next_end_ms
        or of["_overtaken"]
        or of["_safe"] is not None
        or of["_failures"]
    )


cdef bint _tell_latest(dict told, object what, object bucket, int64_t most) except -1:
    """Take down the latest bucket in which something was told; whether that is done: there is room for so many."""
    cdef PyObject* before = PyDict_GetItemWithError(told, what)
    if before is NULL:
        if len(told) >= most:
            return False
        told[what] = bucket
    elif <int64_t> <object> before < <int64_t> bucket:
        told[what] = bucket
    return True


cdef object _own(object conversation, object sid):
    """``Conversation.own``."""
    for member in <tuple> _get(conversation, &MEMBERS):
        if member == sid:
            return member
    return sid


# --------------------------------------------------------------------------- the families, and their fields

_VOICE = "com.twilio.voice."
_FAMILIES = (
    (_VOICE + "status-callback.recording.processed", _RECORDING),
    (_VOICE + "status-callback.call.", _CALL),
    (PARTICIPANT, _PARTICIPANT),
    (_VOICE + "status-callback.conference.updated", _CONFERENCE),
    (_VOICE + "insights.call-summary.", _CALL_SUMMARY),
    (_VOICE + "insights.conference-participant-summary.", _PARTICIPANT_SUMMARY),
    (_VOICE + "insights.participant-summary.", _PARTICIPANT_SUMMARY),
    (_VOICE + "insights.conference-summary.", _CONFERENCE_SUMMARY),
    ("com.twilio.taskrouter.task.", _TASK),
    ("com.twilio.taskrouter.reservation.", _TASK),
    ("com.twilio.taskrouter.worker.activity.update", _WORKER),
    (_VOICE + "api-request.call.", _CALL_REQUEST),
    (_VOICE + "api-request.conference-participant.deleted", _REMOVAL),
    (_VOICE + "api-request.conference-participant.created", _CONFERENCE_REQUEST),
    (_VOICE + "api-request.conference-participant.modified", _CONFERENCE_REQUEST),
    (_VOICE + "api-request.conference.", _CONFERENCE_REQUEST),
    ("com.twilio.error-logs.error.logged", _ERROR),
    ("com.twilio.studio.flow.step.ended", _STEP),
    ("com.twilio.studio.flow.execution.started", _EXECUTION),
    ("com.twilio.studio.flow.execution.ended", _EXECUTION_ENDED),
    (_VOICE + "twiml.dial.finished", _DIAL),
    (_VOICE + "twiml.call.requested", _TWIML),
    (_VOICE + "twiml.call.redirected", _TWIML),
    (_VOICE + "twiml.gather.finished", _TWIML),
    (_VOICE + "twiml.enqueue.finished", _TWIML),
)


# Of every type that may take the fast path: its family, our name of it, and what stands for it in evidence.
cdef int FAMILY[TYPES_MAX]
TYPE_NAMES = []
TYPE_BYTES = []


def _know_types():
    global ENVELOPE, TYPE, DATA, ANYTHING
    ENVELOPE, ANYTHING = shape_at(Envelope, "envelope"), shape_at(Ignorable, "data")
    FAMILY[UNREAD] = _UNREAD
    TYPE, DATA = told_at("envelope", "type"), told_at("envelope", "data")
    add_key(ENVELOPE, "type", TYPE, -1, False)
    for envelope, (kind, read) in BY_ENVELOPE.items():
        families = [family for prefix, family in _FAMILIES if kind.startswith(prefix)]
        for family in [_IGNORED] if is_ignored(read) else families:
            add_type(envelope.__struct_config__.tag, shape_of(read), len(TYPE_NAMES))
            FAMILY[len(TYPE_NAMES)] = family
            TYPE_NAMES.append(kind)
            TYPE_BYTES.append(encode(TYPE_CODES.get(kind, kind)))


_know_types()

cdef int E_ID = told_at("envelope", "id")
cdef int E_TIME = told_at("envelope", "time")
cdef int D_TIMESTAMP = told_at("data", "timestamp")
cdef int D_ACCOUNT = told_at("data", "account_sid")
cdef int D_CALL = told_at("data", "call_sid")
cdef int D_PARENT_CALL = told_at("data", "parent_call_sid")
cdef int D_CONFERENCE = told_at("data", "conference_sid")
cdef int D_NAME_OF = told_at("data", "friendly_name")
cdef int D_CREATE_TIME = told_at("data", "create_time")
cdef int D_START_TIME = told_at("data", "start_time")
cdef int D_END_TIME = told_at("data", "end_time")
cdef int D_RECORDING = told_at("data", "recording_enabled")
cdef int D_JOIN_TIME = told_at("data", "join_time")
cdef int D_LEAVE_TIME = told_at("data", "leave_time")
cdef int D_DURATION = told_at("data", "duration")
cdef int D_FLOW = told_at("data", "flow_sid")
cdef int D_EXECUTION = told_at("data", "execution_sid")
cdef int D_NAME = told_at("data", "name")
cdef int D_LEAVES = told_at("data", "transitioned_from")
cdef int D_ENTERS = told_at("data", "transitioned_to")
cdef int D_REVISION = told_at("data", "flow_revision")
cdef int D_STARTED_BY = told_at("data", "started_by")
cdef int D_CREATED = told_at("data", "date_created")
cdef int D_UPDATED = told_at("data", "date_updated")
cdef int P_ACCOUNT = told_at("parameters", "account_sid")
cdef int P_CALL = told_at("parameters", "call_sid")
cdef int P_DIRECTION = told_at("parameters", "direction")
cdef int P_FROM = told_at("parameters", "from_")
cdef int P_TO = told_at("parameters", "to")
cdef int P_CONFERENCE = told_at("parameters", "conference_sid")
cdef int P_NAME = told_at("parameters", "friendly_name")
cdef int P_TIMESTAMP = told_at("parameters", "timestamp")
cdef int P_HAPPENED = told_at("parameters", "status_callback_event")
cdef int P_PARENT_CALL = told_at("parameters", "parent_call_sid")
cdef int P_CALL_ENDING = told_at("parameters", "call_sid_ending_conference")
cdef int P_RECORDING = told_at("parameters", "recording_sid")
cdef int P_RECORDING_URL = told_at("parameters", "recording_url")
cdef int P_SOURCE = told_at("parameters", "recording_source")
cdef int P_REC_STATUS = told_at("parameters", "recording_status")
cdef int P_STARTED = told_at("parameters", "recording_start_time")
cdef int P_DURATION = told_at("parameters", "recording_duration")
cdef int P_DIAL_CALL = told_at("parameters", "dial_call_sid")
cdef int R_BODY = told_at("response", "response_body")
cdef int IN_DIRECTION = told_at("properties", "direction")
cdef int IN_RECORDING = told_at("properties", "recording_enabled")
cdef int L_ACCOUNT = told_at("payload", "account_sid")
cdef int L_TIMESTAMP_MS = told_at("payload", "timestamp_ms")
cdef int L_TASK = told_at("payload", "task_sid")
cdef int L_ATTRIBUTES = told_at("payload", "task_attributes")
cdef int L_QUEUE = told_at("payload", "task_queue_sid")
cdef int L_QUEUE_NAME = told_at("payload", "task_queue_name")
cdef int L_WORKER = told_at("payload", "worker_sid")
cdef int L_WORKER_NAME = told_at("payload", "worker_name")
cdef int D_SID = told_at("data", "sid")
cdef int D_PASCAL_ACCOUNT = told_at("data", "pascal_account_sid")
cdef int D_ERROR = told_at("data", "error_code")
cdef int Q_URL = told_at("request", "url")
cdef int P_RECORD = told_at("parameters", "conference_record")
cdef int P_HOLD = told_at("parameters", "hold")
cdef int P_MUTED = told_at("parameters", "muted")
cdef int P_STATUS = told_at("parameters", "status")
cdef int P_TWIML = told_at("parameters", "twiml")
cdef int R_CODE = told_at("response", "response_code")
