# cython: language_level=3, binding=False, embedsignature=False
"""The fast path, compiled: what most events of a busy stream show goes from their bytes straight into the window.

Optional. Most events name what is known in a conversation that is open, as Twilio usually tells it. For each family of
these, ``FastPath`` does in one go exactly what its reader (``readers``) and ``Window.fold`` do together,
without an envelope, an ``Event`` and its facts between; or it declines, has changed nothing, and the message goes the
ordinary way. It may decline whatever it likes, and must where it would do otherwise: ``tests/test_native.py`` holds
both ways against each other, bit by bit, also with bytes that nobody would send.

The bytes are read by ``scanner.pxi``. What is open is laid out by ``compact.pyx``; the fields of other structs are read
and written where they lie (``Field``), and those of the window and of the pipeline in the dict that holds them: to look
each of them up by its name took longer than all else that is done here.
"""

from cpython.bytes cimport PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from typing import Any, get_args

from monitor.core.compact cimport (
    DIGEST_BYTES,
    DIGITS_BYTES,
    Birth,
    Conversation,
    NamedRoom,
    Seen,
    SidKey,
    Table,
    add_member,
    are_same,
    found_by,
    found_in,
    grow,
    has_had,
    is_empty,
    is_same,
    put_by,
    read_digits,
    read_key,
    text_of,
    write_digest,
)
from monitor.core.conversation import IN_FOCUS, KIND, STAMP_BYTES, encode
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
from monitor.core.nailed import ROOM_MAX, Call, Note, Sight, with_one
from monitor.core.parted import PARTS
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
    PyObject* PyDict_GetItemWithError(object, object) except? NULL
    object PyObject_GenericGetDict(object, void*)
    unsigned char* bytes_of "(unsigned char *) PyBytes_AS_STRING" (object)
    const unsigned char* PyUnicode_AsUTF8AndSize(object, Py_ssize_t*) except NULL
    object PyUnicode_DecodeUTF8(const unsigned char*, Py_ssize_t, const char*)

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
    TOLD_ID_BYTES = 14  # Of a digest and when it was told: ``nailed.TOLD_ID``.
    SIDS = 32  # An event that names more goes the ordinary way.

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
cdef bytes _FOUND_BY_STREAM = encode(FOUND_BY_STREAM)
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


cdef struct Sid:
    SidKey key
    const unsigned char* text  # Its characters, where they were told.


cdef struct Sighting:
    Sid* call  # It is among the members.
    int phase
    int64_t at_ms


cdef class FastPath:
    """The fast path of one partition, into its window. It holds nothing but what it is at with the message at hand."""

    cdef object window, nailed, marks, warm
    cdef bint met
    cdef dict accounts, of_window, of_nailed
    cdef list oldest, renewed
    cdef int64_t bucket_ms, part
    cdef object stamp  # One number for all that is told in a part of a window.
    cdef Field replayed, messages, entries, ignored, duplicates, late  # Of the pipeline's counts.
    cdef Scan scan
    cdef bint odd  # Something is told in a way that is not read here.
    cdef Out facts  # The facts at hand, each as msgpack.
    cdef int count  # How many.
    cdef int kinds
    cdef object account
    cdef Sid[SIDS] sids  # All that were told,
    cdef int sids_read
    cdef object linked  # but for those of a task: the texts that hold them.
    cdef Sid* members[SIDS]
    cdef int members_count
    cdef int64_t occurred_ms
    cdef Sid* room  # A conference that is shown,
    cdef Told* name  # and its name: it goes by one.
    cdef Told path_name
    cdef bint on  # Insights says that it was recorded.
    cdef int64_t first_ms, end_ms  # When it was seen under it, and when it ended; 0: it has not.
    cdef Sid* recording  # A recording that is shown,
    cdef int64_t started_ms  # and when it began.
    cdef Sid* call  # The call that was seen in it;
    cdef Sighting[2] sights  # as often as facts say so.
    cdef int sightings
    cdef int new  # The kinds of what was new.
    cdef bint duplicate

    def __cinit__(self, window):
        self.window, self.nailed, self.accounts = window, window.nailed, window.accounts
        self.oldest, self.warm, self.renewed = window.births.oldest, window._warm, window.renewed
        self.of_window, self.of_nailed = window.__dict__, window.nailed.__dict__
        self.marks = window.nailed.marks
        self.bucket_ms, self.part, self.stamp = self.marks.bucket_ms, self.marks.part, 0

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
        cdef Conversation conversation = None
        unread = None
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
            if not self.oldest or (<Birth> self.oldest[-1]).arrived_ms < too_old_ms:  # Else none is.
                aged = conversation.birth.arrived_ms < too_old_ms
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
            if self.recording is not NULL and pipeline.is_late(
                text_of(&self.recording.key), self.started_ms, log_time_ms
            ):
                _add_one(counts, &self.late)
            else:
                self.tally(pipeline, of["tallies"], TYPE_NAMES[place], log_time_ms, now_ms)
            if self.new and self.new & conversation.relevant:
                if conversation._recordings is not None or conversation._suspects is not None:
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
        self.room = self.call = self.recording = NULL
        self.sids_read = self.members_count = self.sightings = 0
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

    cdef inline Sid* sid(self, const char* prefix, int at) noexcept:
        """The SID that was told, or NULL."""
        cdef Told* told = self.told(at)
        return self.sid_of(told.at, told.size, prefix) if told.kind == TEXT and not told.escaped else NULL

    cdef Sid* sid_of(self, const unsigned char* text, Py_ssize_t size, const char* prefix) noexcept:
        """The SID that a text is, or NULL. ``prefix`` is of two letters."""
        cdef Sid* sid = &self.sids[self.sids_read]
        if size != SID or memcmp(text, prefix, 2) != 0:
            return NULL
        if self.sids_read == SIDS or not read_key(text, &sid.key):
            if _is_sid(text):
                self.odd = True  # It is one all the same.
            return NULL
        sid.text = text
        self.sids_read += 1
        return sid

    cdef Sid* sid_in_path(self, const unsigned char* at, const unsigned char* end, const char* prefix) noexcept:
        """The SID that is the next part of a path, or NULL."""
        return self.sid_of(at, SID, prefix) if _ends_sid(at, end) else NULL

    cdef inline object account_in(self, int at):
        cdef Told* told = self.told(at)
        return _account(told.at, told.size) if told.kind == TEXT and not told.escaped else None

    cdef inline Sid* call_in(self, int at) noexcept:
        return self.sid(b"CA", at)

    cdef inline Sid* conference_in(self, int at) noexcept:
        return self.sid(b"CF", at)

    cdef inline Sid* execution_in(self, int at) noexcept:
        return self.sid(b"FN", at)

    cdef inline Sid* recording_in(self, int at) noexcept:
        return self.sid(b"RE", at)

    cdef inline Sid* task_in(self, int at) noexcept:
        return self.sid(b"WT", at)

    cdef inline Sid* either(self, const char* prefix, int one, int other) noexcept:
        """The SID that one field says, or else another one."""
        cdef Sid* sid = self.sid(prefix, one)
        return sid if sid is not NULL else self.sid(prefix, other)

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

    cdef inline void names(self, Sid* sid) noexcept:
        """Have one more member, if it is one."""
        cdef int at
        if sid is NULL:
            return
        for at in range(self.members_count):
            if are_same(&self.members[at].key, &sid.key):
                return
        self.members[self.members_count] = sid  # There are no more of them than were read.
        self.members_count += 1

    cdef tuple texts(self):
        """The members as texts."""
        cdef int at
        return tuple([text_of(&self.members[at].key) for at in range(self.members_count)])

    cdef bint read_worker(self) except -1:
        self.account = self.account_in(D_ACCOUNT) or self.account_in(L_ACCOUNT)
        self.occurred_ms = self.instant(L_TIMESTAMP_MS) or self.instant(D_TIMESTAMP)
        return self.account is not None and self.occurred_ms

    cdef bint show_parameters(self) except -1:
        """What the parameters of a callback say of its call."""
        self.account = self.account_in(P_ACCOUNT)
        cdef Sid* call = self.call_in(P_CALL)
        if self.account is None or call is NULL or not self.occurred_ms or not self.is_text(P_DIRECTION):
            return False
        self.pair(call, self.call_in(P_PARENT_CALL))
        return self.show_call(call)

    cdef bint read_call_summary(self) except -1:
        self.account = self.account_in(D_ACCOUNT)
        cdef Sid* call = self.call_in(D_CALL)
        self.occurred_ms = self.instant(D_TIMESTAMP) or self.instant(D_END_TIME) or self.instant(D_START_TIME)
        if self.account is None or call is NULL or not self.occurred_ms or not self.is_text(IN_DIRECTION):
            return False
        self.pair(call, self.call_in(D_PARENT_CALL))
        self.begin_fact(CALL_KIND, 0x95, 9)
        _put_sid(&self.facts, call)
        self.puts_text(IN_DIRECTION)
        _put(&self.facts, 0xC0)
        _put(&self.facts, 0xC0)
        return True

    cdef bint read_task(self) except -1:
        cdef Told* attributes = &self.scan.told[L_ATTRIBUTES]
        cdef tuple calls = ()
        cdef Sid* task
        cdef Sid* conference = NULL
        cdef Sid* linked_call
        self.account = self.account_in(D_ACCOUNT)
        if self.account is None:
            self.account = self.account_in(L_ACCOUNT)
        task = self.task_in(L_TASK)
        self.occurred_ms = self.instant(L_TIMESTAMP_MS) or self.instant(D_TIMESTAMP)
        if self.account is None or task is NULL or not self.occurred_ms:
            return False
        if attributes.kind != TEXT and attributes.kind != NOTHING:
            return False
        self.names(task)
        if attributes.kind == TEXT:
            told = self.text(L_ATTRIBUTES)
            self.linked = (often_linked if len(<str> told) <= OFTEN_CHARACTERS else linked)(told)
            named, calls = self.linked
            if named is not None:
                conference = self.linked_sid(named)
                self.names(conference)
        if len(calls) > 15:
            return False
        self.begin_fact(TASK_KIND, 0x96, 6)
        _put_sid(&self.facts, task)
        _put_sid(&self.facts, conference)
        _put(&self.facts, 0x90 | len(calls))
        for call in calls:
            linked_call = self.linked_sid(call)
            if linked_call is NULL:
                return False
            self.names(linked_call)
            _put_sid(&self.facts, linked_call)
        self.put_said(L_QUEUE, L_QUEUE_NAME)
        self.put_said(L_WORKER, L_WORKER_NAME)
        self.room = conference  # It shows a Flex conference: worth its position.
        return True

    cdef Sid* linked_sid(self, object text) except? NULL:
        """A SID that the attributes of a task hold; NULL: it is not spelled as usual."""
        cdef Py_ssize_t size
        cdef const unsigned char* at = PyUnicode_AsUTF8AndSize(text, &size)
        cdef Sid* sid = self.sid_of(at, size, <const char*> at)
        if sid is NULL:
            self.odd = True
        return sid

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
        cdef Sid* conference = self.conference_in(P_CONFERENCE)
        self.occurred_ms = self.instant(P_TIMESTAMP)
        if self.account is None or conference is NULL or not self.occurred_ms or not self.is_text(P_NAME):
            return False
        cdef int phase = _phase(self.told(P_HAPPENED))
        if phase < 0:
            return False
        cdef Sid* call = self.call_in(P_CALL)
        cdef Sid* ending = self.call_in(P_CALL_ENDING)
        if call is NULL and (participant or self.told(P_CALL).kind != NOTHING):
            return False
        cdef Told* name = self.told(P_NAME)
        self.room, self.name, self.first_ms = conference, name, self.occurred_ms
        self.call = call
        self.pair(conference, call)
        if call is not NULL:
            self.show_participant(conference, call, phase if phase == JOIN or phase == LEAVE else INSIDE, name, 0)
        else:
            if phase == END:
                self.end_ms = self.occurred_ms
            self.show_conference(conference, name, phase if phase == START or phase == END else SEEN, 0, NOTHING)
        if ending is not NULL and (call is NULL or not are_same(&ending.key, &call.key)):
            if call is not NULL:
                return False
            self.call = ending
            self.names(ending)
            self.show_participant(conference, ending, LEAVE, name, 0)
        return True

    cdef bint read_participant_summary(self) except -1:
        self.account = self.account_in(D_ACCOUNT)
        cdef Sid* conference = self.conference_in(D_CONFERENCE)
        cdef Sid* call = self.call_in(D_CALL)
        cdef int64_t joined_ms = self.instant(D_JOIN_TIME), left_ms = self.instant(D_LEAVE_TIME)
        cdef int on = self.told(IN_RECORDING).kind
        self.occurred_ms = self.instant(D_TIMESTAMP) or left_ms or joined_ms
        if self.account is None or conference is NULL or call is NULL or not self.occurred_ms:
            return False
        if on != NOTHING and on != FALSE and on != TRUE:
            return False
        self.on = on == TRUE
        self.pair(conference, call)
        self.room, self.call = conference, call
        self.show_participant(conference, call, JOIN if joined_ms else INSIDE, NULL, joined_ms)
        if left_ms:
            self.show_participant(conference, call, LEAVE, NULL, left_ms)
        return self.show_conference(conference, NULL, SEEN, joined_ms, on)

    cdef bint read_conference_summary(self) except -1:
        self.account = self.account_in(D_ACCOUNT)
        cdef Sid* conference = self.conference_in(D_CONFERENCE)
        cdef int64_t start_ms = self.instant(D_START_TIME) or self.instant(D_CREATE_TIME)
        cdef int64_t end_ms = self.instant(D_END_TIME)
        cdef int on = self.told(D_RECORDING).kind
        self.occurred_ms = self.instant(D_TIMESTAMP) or end_ms or start_ms
        if self.account is None or conference is NULL or not self.occurred_ms or not start_ms:
            return False
        if not self.is_text(D_NAME_OF) or (on != NOTHING and on != FALSE and on != TRUE):
            return False
        self.on = on == TRUE
        cdef Told* name = self.told(D_NAME_OF)
        self.names(conference)
        self.room, self.name, self.first_ms, self.end_ms = conference, name, start_ms, end_ms
        self.show_conference(conference, name, START, start_ms, on)
        if end_ms:
            self.show_conference(conference, name, END, end_ms, NOTHING)
        return True

    cdef bint read_step(self) except -1:
        self.account = self.account_in(D_ACCOUNT)
        cdef Sid* execution = self.execution_in(D_EXECUTION)
        self.occurred_ms = self.instant(D_TIMESTAMP) or self.instant(D_CREATED)
        if self.account is None or execution is NULL or not self.occurred_ms:
            return False
        self.names(execution)
        self.begin_fact(STEP_KIND, 0x95, 8)
        _put_sid(&self.facts, execution)
        self.puts_text(D_LEAVES)
        self.puts_text(D_ENTERS)
        self.puts_text(D_NAME)
        return True

    cdef bint read_execution(self, bint ended) except -1:
        self.account = self.account_in(D_ACCOUNT)
        cdef Sid* execution = self.execution_in(D_EXECUTION)
        cdef Sid* call = self.either(b"CA", D_STARTED_BY, D_CALL)
        cdef int64_t revision = _number(self.told(D_REVISION))
        cdef int own_date = D_UPDATED if ended and self.told(D_UPDATED).kind != NOTHING else D_CREATED
        self.occurred_ms = self.instant(D_TIMESTAMP)
        if not self.occurred_ms:
            if own_date == D_UPDATED and not self.is_text(D_UPDATED):
                return False
            self.occurred_ms = self.instant(own_date)
        if self.account is None or execution is NULL or not self.occurred_ms or not self.is_text(D_FLOW):
            return False
        if revision < 0:
            return False
        self.pair(execution, call)
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
        cdef Sid* call = self.either(b"CA", P_CALL, D_SID)
        self.account = self.account_of_request()
        self.occurred_ms = self.instant(D_TIMESTAMP)
        if self.account is None or call is NULL or not self.occurred_ms:
            return False
        self.names(call)
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
        cdef Sid* conference = self.either(b"CF", P_CONFERENCE, D_SID)
        cdef Sid* named
        at = find_bytes(url.at, url.size, <const unsigned char*> b"/Conferences/", 13)
        if at is not NULL:
            at += 13
            self.path_name.at = at
            while at < end and at[0] != 0x2F:
                at += 1
            self.path_name.size = at - self.path_name.at
            if self.path_name.size > 5 and memcmp(at - 5, b".json", 5) == 0:
                self.path_name.size -= 5
            named = self.sid_of(self.path_name.at, self.path_name.size, b"CF")
            if lacks and (named is NULL or at - self.path_name.at != SID or not _names_participant(at, end)):
                return False
            if named is not NULL:
                conference = conference if conference is not NULL else named
                self.path_name.size = 0
            elif not _is_plain(self.path_name.at, self.path_name.size):
                return False
        elif lacks:
            return False
        cdef Sid* call = self.call_in(P_CALL)
        if call is NULL:
            if find_bytes(url.at, url.size, <const unsigned char*> b"/Calls/", 7) is not NULL:
                return False
            at = find_bytes(url.at, url.size, <const unsigned char*> b"/Participants/", 14)
            if at is NULL:
                call = self.call_in(D_SID)
            else:
                call = self.sid_in_path(at + 14, end, b"CA")
                if call is NULL:
                    return False
        self.account = self.account_of_request()
        self.occurred_ms = self.instant(D_TIMESTAMP)
        if self.account is None or conference is NULL or not self.occurred_ms:
            return False
        cdef Told* name = &self.path_name if self.path_name.size else NULL
        self.pair(conference, call)
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
        cdef Sid* recording = self.recording_in(P_RECORDING)
        cdef Sid* call = self.call_in(P_CALL)
        cdef Sid* conference = self.conference_in(P_CONFERENCE)
        self.account = self.account_in(P_ACCOUNT)
        self.started_ms = self.instant(P_STARTED)
        self.occurred_ms = self.instant(P_TIMESTAMP) or self.instant(D_TIMESTAMP) or self.instant(E_TIME)
        if self.account is None or recording is NULL or not self.started_ms or not self.occurred_ms:
            return False
        if (call is NULL and conference is NULL) or not self.is_text(P_SOURCE) or not self.is_text(P_REC_STATUS):
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
        self.names(recording)
        self.names(call)
        self.names(conference)
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
        _put_raw(&self.facts, bytes_of(_FOUND_BY_STREAM), PyBytes_GET_SIZE(_FOUND_BY_STREAM))
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
                at += 10
                account = _account(at, SID) if _ends_sid(at, url.at + url.size) else None
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

    cdef inline void pair(self, Sid* one, Sid* other) noexcept:
        self.names(one)
        self.names(other)

    cdef inline int begin_fact(self, int kind, int array, int tag) except -1:
        _put(&self.facts, array)
        _put(&self.facts, tag)
        self.count += 1
        self.kinds |= kind
        return 0

    cdef bint show_call(self, Sid* call) except -1:
        """What the parameters say of a call."""
        self.begin_fact(CALL_KIND, 0x95, 9)
        _put_sid(&self.facts, call)
        self.puts_text(P_DIRECTION)
        self.puts_text(P_FROM)
        self.puts_text(P_TO)
        return True

    cdef bint show_participant(self, Sid* conference, Sid* call, int phase, Told* name, int64_t at_ms) except -1:
        self.sights[self.sightings] = Sighting(call, phase, at_ms)
        self.sightings += 1
        self.begin_fact(PARTICIPANT_KIND, 0x96, 2)
        _put_sid(&self.facts, conference)
        _put_sid(&self.facts, call)
        _put_phase(&self.facts, phase)
        _put_name(&self.facts, name)
        _put_instant(&self.facts, at_ms)
        return True

    cdef bint show_conference(self, Sid* conference, Told* name, int phase, int64_t at_ms, int on) except -1:
        self.begin_fact(CONFERENCE_KIND, 0x96, 3)
        _put_sid(&self.facts, conference)
        _put_name(&self.facts, name)
        _put_phase(&self.facts, phase)
        _put_instant(&self.facts, at_ms)
        _put(&self.facts, 0xC2 if on == FALSE else 0xC3 if on == TRUE else 0xC0)
        return True

    # ----------------------------------------------------------------- into the window

    cdef Conversation fold(self, int place, object offset, object arrived_ms, int64_t now_ms):
        """``Window.fold`` of the event at hand: the conversation it went to. None: declined.

        Offset and log time are those of the message.
        """
        cdef Told* event_id = self.told(E_ID)
        cdef PyObject* found = PyDict_GetItemWithError(self.accounts, self.account)
        cdef bint complete = True, joined = True
        cdef bint timeless = self.kinds & (CALL_KIND | TASK_KIND)
        cdef bint timed = not timeless or self.room is not NULL
        cdef Out kept
        cdef unsigned char digest[DIGEST_BYTES]
        cdef int64_t room_left, most = self.of_window["entries_max"]
        if found is NULL or self.odd or event_id.kind != TEXT or event_id.size == 0:
            return None
        account = <object> found
        cdef Table index = _get(account, &INDEX)
        cdef Conversation conversation = None, told = None, other
        cdef Table watched
        cdef int at
        if is_empty(index) or <int64_t> self.of_window["cold_after_ms"] <= 0:
            return None  # An account without conversations may be forgotten with a new bucket.
        room_left = most
        _digest(event_id, digest)
        for at in range(self.members_count):
            found = found_by(index, &self.members[at].key)
            if found is NULL:
                complete = False
                continue
            other = <Conversation> found
            if other is conversation:
                continue
            if conversation is None:
                conversation = other
            else:
                joined = False
            if told is None and has_had(other, digest):
                told = other
            room_left -= max(other.kept, other.properties_kept)
        guests = _get(account, &GUESTS)
        if guests is not None:
            watched = guests.notes.watched
            for at in range(self.members_count):
                if found_by(watched, &self.members[at].key) is not NULL:
                    return None
        if self.call is not NULL and conversation is not None:
            if not joined or conversation.conferences > <int> complete:
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
            conversation = self.window._gather(account, self.texts())
        if not complete:
            self.add_members(index, conversation)
        grow(&conversation._ids, digest, DIGEST_BYTES)
        conversation.last_ms = now_ms
        if <int64_t> offset % EVERY == 0:
            self.look_for_cold(arrived_ms, now_ms)
        if timeless and self.keeps_already(conversation):
            return conversation
        focus = conversation.focus
        self.new = self.kinds
        if focus is not None and self.kinds & FOCUSED:
            self.new = 0
            for fact in self.as_read():
                if is_news(account, focus, fact, self.occurred_ms):
                    self.new |= <int> KIND[type(fact)]
        if not timed:
            return conversation
        if self.recording is not NULL and not _has_seen(conversation._recordings, self.recording):
            self.window._see_recording(conversation, text_of(&self.recording.key), arrived_ms, offset, 0)
        grow(&conversation._evidence, kept.bytes, kept.size)
        conversation.kept += 1
        if conversation._cold and PyBytes_GET_SIZE(<object> conversation._evidence) > COLD_TAIL:
            self.window._warm_up(conversation)
        if (
            (self.on and not _has_seen(conversation._suspects, self.room))
            or (self.sightings and _claims(conversation))  # A call seen in a conference claims none any more.
            or (self.name is not NULL and not self.sees_room(account, conversation))
        ):
            for fact in self.as_read():
                self.window._bind(account, conversation, fact, self.occurred_ms, arrived_ms, offset, 0)
                conversation = index[text_of(&self.members[0].key)]  # A binding may have poured it into another one.
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

    cdef int announce(self, Table index) except -1:
        """As the window begins with each event."""
        saver = self.of_window["_saver"]
        cdef PyObject* found
        cdef int at
        if saver is not None:
            for at in range(self.members_count):
                found = found_by(index, &self.members[at].key)
                if found is not NULL:
                    saver.before(<object> found)
        if self.renewed:
            self.renewed.clear()
        return 0

    cdef int add_members(self, Table index, Conversation conversation) except -1:
        """``Window._add_members``."""
        cdef int at
        cdef Sid* member
        for at in range(self.members_count):
            member = self.members[at]
            if found_by(index, &member.key) is NULL:
                put_by(index, &member.key, conversation)
                add_member(conversation, &member.key)
                if memcmp(member.text, b"CF", 2) == 0:
                    conversation.conferences += 1
        return 0

    cdef Conversation tell_again(
        self, Conversation conversation, Table index, object offset, object arrived_ms, int64_t now_ms
    ):
        """It is a duplicate, of what this conversation holds."""
        cdef object event_id = self.text(E_ID)
        self.announce(index)
        self.duplicate = True
        conversation.last_ms = now_ms
        conversation.arrive_again(event_id, offset, now_ms // self.bucket_ms, self.of_window["entries_max"])
        if self.kinds & (CALL_KIND | TASK_KIND):
            conversation.tell_again(self.encoded(), self.of_nailed["stamp"])
        return conversation

    cdef bint moves(self, Table index) except -1:
        """``guests.moves``, of the call that was seen."""
        cdef PyObject* here = found_by(index, &self.call.key)
        if here is NULL:
            return False
        cdef int conferences = (<Conversation> here).conferences
        return conferences > 1 or (conferences == 1 and found_by(index, &self.room.key) is not here)

    cdef int look_for_cold(self, object arrived_ms, int64_t now_ms) except -1:
        """``Window.look_for_cold``, where the next one in turn is not cold."""
        cdef int64_t cold_ms = now_ms - <int64_t> self.of_window["cold_after_ms"]
        cdef Conversation first
        if self.warm:
            first = self.warm[0]
            if first._open and first.last_ms > cold_ms:
                self.warm.rotate(-1)
            else:
                self.window.look_for_cold(arrived_ms)
        return 0

    cdef bint keeps_already(self, Conversation conversation) except -1:
        """Keep the one fact at hand among the properties; whether it was there."""
        cdef bytes stamp = self.of_nailed["stamp"]
        cdef const unsigned char* at
        cdef bytes properties
        cdef Py_ssize_t place
        if conversation.packed:
            if conversation.tell_again(self.encoded(), stamp):
                return True
        else:
            properties = <bytes> <object> conversation._properties
            at = find_bytes(bytes_of(properties), PyBytes_GET_SIZE(properties),
                            self.facts.bytes, self.facts.size)
            if at is not NULL:
                place = at - bytes_of(properties) + self.facts.size
                if memcmp(bytes_of(properties) + place, bytes_of(stamp), STAMP):
                    conversation.properties = properties[:place] + stamp + properties[place + STAMP :]
                return True
            properties = None
        _put_raw(&self.facts, bytes_of(stamp), STAMP)
        grow(&conversation._properties, self.facts.bytes, self.facts.size)
        self.facts.size -= STAMP
        conversation.properties_kept += 1
        return False

    cdef bytes encoded(self):
        """The facts at hand as they are kept."""
        return PyBytes_FromStringAndSize(<const char*> self.facts.bytes, self.facts.size)

    cdef object as_read(self):
        """The facts at hand as the structs that they are."""
        return _decode_facts(bytes([0x90 | self.count]) + self.encoded())

    cdef bint sees_room(self, object account, Conversation conversation) except -1:
        """Bind what goes by a name, where nothing else has gone by it; whether that is done."""
        cdef NamedRoom room
        cdef Table books = _get(account, &BOOKS)
        cdef SidKey name
        cdef bint is_task = self.name.size == SID and read_key(self.name.at, &name)  # As most are.
        cdef PyObject* found
        cdef bint named
        text = None if is_task else PyUnicode_DecodeUTF8(self.name.at, self.name.size, NULL)
        held = conversation._rooms
        for each in () if held is None else <tuple> held if type(held) is tuple else (held,):
            room = each
            named = are_same(&room._name, &name) if is_task else is_same(&room._name, text)
            if named and are_same(&room._conference, &self.room.key):
                if self.end_ms == 0 and self.first_ms >= room.first_ms:
                    return True  # From most sights of a room nothing follows.
                found = found_by(books, &name) if is_task else found_in(books, text)
                if found is not <PyObject*> room:
                    return False
                self.see(room)
                return True
        if (found_by(books, &name) if is_task else found_in(books, text)) is not NULL:
            return False
        if is_task:
            text = text_of(&name)
        room = NamedRoom(text, text_of(&self.room.key), self.first_ms, None)
        books[text] = room
        conversation.rooms = (*conversation.rooms, room)
        self.see(room)
        return True

    cdef int see(self, NamedRoom room) except -1:
        """``NamedRoom.see``, of the sights at hand."""
        if self.first_ms < room.first_ms:
            room.first_ms = self.first_ms
        if self.end_ms:
            if self.end_ms < room.first_ms:
                room.first_ms = self.end_ms
            if self.end_ms > room._end_ms:
                room._end_ms = self.end_ms
        return 0

    # ----------------------------------------------------------------- before the window

    cdef bint look_back(self, int place, object offset, int64_t now_ms) except -1:
        """``Window.look_back`` at the event at hand, as long as no conversation is open that it could concern.

        False: declined. What is rare (a bound is reached) is left to the notes themselves.
        """
        cdef Told* event_id = self.told(E_ID)
        cdef PyObject* found = PyDict_GetItemWithError(self.accounts, self.account)
        cdef Out kept
        cdef unsigned char digest_[DIGEST_BYTES]
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
        notes, bucket = guests.notes, self.marks.bucket_at(now_ms)
        cdef list calls = notes.calls.parts
        cdef int at
        cdef tuple members = tuple([_remembered(self.members[at].text) for at in range(self.members_count)])
        room = execution = conference = None
        if self.kinds & (PARTICIPANT_KIND | CONFERENCE_KIND):
            conference = _remembered(self.room.text)
            for at in range(self.sightings):
                self.see_call(notes, _remembered(self.sights[at].call.text), conference, bucket)
            room = notes.rooms.get(conference)
            if room is None:
                room = notes.watch_room(conference, offset, bucket)
        elif self.kinds & (STEP_KIND | EXECUTION_KIND):
            told = PyBytes_FromStringAndSize(<const char*> kept.bytes, kept.size)
            execution = notes.executions.get(members[0])
            if execution is None:
                execution = notes.watch_execution(members[0], bucket)
        _digest(event_id, digest_)
        for at in range(self.members_count):
            if memcmp(self.members[at].text, b"CA", 2) != 0:
                continue
            member = members[at]
            found = _found(calls, member)
            record = <object> found if found is not NULL else notes.call(member)
            if self.kinds & TASK_KIND or (self.kinds & CALL_KIND and at == 0):
                if <int64_t> self.stamp != number - number % self.part:
                    self.stamp = number - number % self.part
                self.tell(notes, record, member, self.stamp, bound)
            elif self.sightings:
                self.note_sights(notes, record, self.members[at], member, conference, room, offset, bucket, bound)
            elif execution is not None:
                notes.note(member, (), (Note(bucket, offset, told, members[0]),))
                execution.touched, execution.calls = bucket, with_one(execution.calls, member)
            _tell_alone(record, digest_, number)
        if execution is not None:
            notes.step(execution, Note(bucket, offset, told, None))
        elif room is not None:
            self.tell_room(notes, room, bucket)
        self.of_nailed["noted"] = bucket
        return True

    cdef int see_call(self, object notes, object call, object conference, object bucket) except -1:
        """Take in that a call is in the conference at hand."""
        cdef PyObject* found = _found(notes.calls.parts, call)
        cdef int64_t most = <int64_t> self.of_nailed["conferences_max"] + 1
        record = <object> found if found is not NULL else notes.call(call)
        if not _tell_latest(record.seen, conference, bucket, most):
            record.see(conference, bucket, most)
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
        self, object notes, object record, Sid* member, object call, object conference, object room, object offset,
        object bucket, int64_t bound,
    ) except -1:
        """Note where a call was seen, if it was."""
        cdef int at
        cdef list sights = []
        for at in range(self.sightings):
            if are_same(&self.sights[at].call.key, &member.key):
                at_ms = self.sights[at].at_ms or self.occurred_ms
                sights.append(Sight(bucket, offset, at_ms, PHASES[self.sights[at].phase], conference))
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


cdef int _tell_alone(object record, const unsigned char* digest, int64_t bucket) except -1:
    """``Call.tell_alone``, without a bound."""
    cdef PyObject** ids = _place(record, &CALL_IDS)
    cdef Py_ssize_t at, size = PyBytes_GET_SIZE(<object> ids[0])
    cdef unsigned char told[TOLD_ID_BYTES]
    cdef int byte
    memcpy(told, digest, DIGEST_BYTES)
    for byte in range(8):
        told[DIGEST_BYTES + byte] = (bucket >> (56 - 8 * byte)) & 0xFF
    for at in range(0, size, TOLD_ID_BYTES):
        if memcmp(bytes_of(<object> ids[0]) + at, digest, DIGEST_BYTES) == 0:
            if memcmp(bytes_of(<object> ids[0]) + at, told, TOLD_ID_BYTES) != 0:
                before = <bytes> <object> ids[0]
                record.ids = before[:at] + told[:TOLD_ID_BYTES] + before[at + TOLD_ID_BYTES :]
            return 0
    return grow(ids, told, TOLD_ID_BYTES)


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


cdef inline bint _claims(Conversation conversation) except -1:
    return conversation._seldom is not None and bool(conversation._seldom.claims)


cdef bint _has_seen(object held, Sid* sid) except -1:
    """``has_seen``, among what a conversation holds: none, one, or several."""
    if held is None:
        return False
    if type(held) is Seen:
        return are_same(&(<Seen> held)._sid, &sid.key)
    for seen in <tuple> held:
        if are_same(&(<Seen> seen)._sid, &sid.key):
            return True
    return False


cdef void _put_sid(Out* out, Sid* sid) noexcept:
    """A SID, or nil."""
    if sid is NULL:
        _put(out, 0xC0)
    else:
        _put_bytes(out, sid.text, SID)


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
