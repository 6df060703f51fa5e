"""What `vetiver.write_app` writes: the model from its pin behind vetiver's API, the prototype checked."""

import pins
from vetiver import VetiverAPI, VetiverModel

board = pins.board_folder("board", allow_pickle_read=True)
api = VetiverAPI(VetiverModel.from_pin(board, "model"), check_prototype=True).app
