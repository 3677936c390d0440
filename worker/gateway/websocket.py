"""WebSockets as uvicorn speaks them, but that a client's broken text is the client's fault."""

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

# RFC 6455, section 7.4.1: data that is not what the type of the message says.
INVALID_DATA = 1007
# Seconds in which a client that was told why its connection ends should end it too.
CLOSED_WITHIN = 10.0


class WebSocket(WebSocketsSansIOProtocol):
    """One connection."""

    def send_receive_event_to_app(self) -> None:
        """Closes with 1007 what is no UTF-8, as uvicorn does, which also logs it as an error of ours.

        Who has said goodbye is not listened to any more.
        """
        if self.conn.state is not State.OPEN:
            self.frames = []
            return
        if self.curr_msg_data_type == "text" and not _utf8(b"".join(self.frames)):
            self.frames = []
            self.conn.send_close(INVALID_DATA)
            self.handle_parser_exception()
            return
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """Close, and read on until the client has closed too, if it does so soon (RFC 6455, section 7.1.1).

        uvicorn closes at once. With bytes unread that is a reset, before which a client that is still sending may not
        see the close frame.
        """
        closed = self.conn.close_sent
        assert closed is not None
        self.queue.put_nowait({"type": "websocket.disconnect", "code": closed.code, "reason": closed.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.stop_keepalive()
        self.close_sent = True
        # Who answers what came before may go on to do so: uvicorn would take that for a bug of ours.
        self.disconnected = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(CLOSED_WITHIN, self.transport.close)

    def data_received(self, data: bytes) -> None:
        if not self.disconnected:
            super().data_received(data)

    def handle_ping(self) -> None:
        if not self.disconnected:  # one behind what was closed, in the same segment
            super().handle_ping()


def _utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
