"""`tf-gpt tokenize`: the ids of a large text file, in shards."""

from tf_gpt.cli.options import add_model, hub_options

HELP = "turn a text file into shards of token ids"


def add_arguments(parser):
    parser.add_argument("file", help="UTF-8 text, plain or as .gz, .xz or .bz2")
    parser.add_argument("out", help="folder for the shards; goes on with its own")
    add_model(parser)
    parser.add_argument(
        "--fast",
        action="store_true",
        help="split words as BERT does, with the `tokenizers` library",
    )
    parser.add_argument(
        "--format", choices=["npy", "tfrecord"], default="npy", help="default: npy"
    )
    parser.add_argument(
        "--documents",
        choices=["lines", "paragraphs"],
        default="lines",
        help="a document is a line (default), or what stands between empty lines",
    )
    parser.add_argument("--end-token", help="token to put after each document")
    parser.add_argument(
        "--workers", type=int, help="processes; default: one for each processor"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start anew over other shards"
    )


def run(arguments):
    from tf_gpt import OpenAIGPTTokenizer, OpenAIGPTTokenizerFast
    from tf_gpt.tokenization.corpus import tokenize_file

    cls = OpenAIGPTTokenizerFast if arguments.fast else OpenAIGPTTokenizer
    tokenizer = cls.from_pretrained(arguments.model, **hub_options(arguments))
    result = tokenize_file(
        arguments.file,
        arguments.out,
        tokenizer,
        file_format=arguments.format,
        documents=arguments.documents,
        end_token=arguments.end_token,
        num_workers=arguments.workers,
        overwrite=arguments.overwrite,
        progress=True,
    )
    print(
        f"{result['tokens']:,} tokens of {result['documents']:,} documents in "
        f"{result['shards']} shards: {result['path']}"
    )
