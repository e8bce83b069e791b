"""The forms of published data sets that ``mmkit data import`` reads, and what each is."""

FORMATS = {
    "karpathy": "dataset_coco.json or dataset_flickr30k.json with --split, or one of ALBEF's lists of captions",
    "coco": "captions_train2014.json and the like",
    "vqa": "v2_OpenEnded_mscoco_train2014_questions.json and the like, with --annotations but for a test split",
    "vg-qa": "Visual Genome's question_answers.json",
    "albef-vqa": "ALBEF's vqa_train.json, vqa_val.json, vg_qa.json, vqa_test.json, and VizWiz's",
    "gqa": 'GQA\'s questions, {"123": {"imageId": ..., "question": ..., "answer": ...}}',
    "msrvtt_1ka": "MSR-VTT's CSV of the 1k-A pairs; with --images, the folder of the clips",
    "msrvtt_full": "MSR-VTT's JSON of videos and sentences, with --split (default test)",
    "msvd": "MSVD's raw-captions.pkl, with --annotations, the list of a split",
    "didemo": "DiDeMo's JSON of a split; the sentences of a clip are one paragraph",
    "csv": "a table, separated by commas or tabs; --columns image=COLUMN,caption=COLUMN and more for targets",
    "records": "whatever `mmkit retrieval` reads: JSON lines with other keys, Parquet, hf:NAME, a folder",
    "builtin": "openmoji, openmoji-questions, openmoji-pairs, openmoji-moving and others, easy-vqa; with :test a split",
}
