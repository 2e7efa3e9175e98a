from exporters.recorder.writing import *
