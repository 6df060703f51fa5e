"""Pin the fitted model to a board, with the first rows as the prototype that requests are checked against."""

import sys

from pins import board_folder
from pipeline import fitted, training
from vetiver import VetiverModel, vetiver_pin_write

X, _ = training()
board = board_folder("board", allow_pickle_read=True)
vetiver_pin_write(board, VetiverModel(fitted(sys.argv[1]), "model", prototype_data=X.dropna().head()))
